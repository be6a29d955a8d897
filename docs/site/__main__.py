"""Write the pages of ``docs/reference/`` from the code: ``python -m docs.site [FOLDER]``
(``make reference``); a test compares them with what is there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from docs.site import fields, routes, settings

HERE = Path(__file__).parent
PAGES: dict[str, Callable[[], str]] = {
    "custom-resources.md": fields.page,
    "settings.md": settings.page,
    "routes.md": routes.page,
}


def main(folder: Path) -> None:
    """Write every page into ``folder``."""
    for name, page in PAGES.items():
        (folder / name).write_text(page())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "reference")
