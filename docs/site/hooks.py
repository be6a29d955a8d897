"""Hook of mkdocs: what a code host shows as it is, and the site's Markdown does not.

Links that lead out of ``docs/``, to examples, charts and sources: on a code host they work. The
site has no such files, so there each becomes the path's name, or a link into ``repo_url`` where
``mkdocs.yml`` has one. What does not exist is a warning, which ``mkdocs build --strict`` takes for
an error, like any other dead link. Words behind a code block's language, which say to tests what
it is, are left out.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.docs")

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"(?m)^(```[\w-]+)[ \t]+\S.*$")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def replaced(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, _, _ = target.partition("#")
        there = (folder / path).resolve()
        if there.is_relative_to(ROOT / "docs"):
            return match.group()
        if not there.exists() or not there.is_relative_to(ROOT):
            log.warning("%s links to %s, which does not exist", page.file.src_uri, path)
        name = there.relative_to(ROOT).as_posix() if there.is_relative_to(ROOT) else path
        if config.get("repo_url"):
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{name})"
        code = f"`{name}`"
        bare = text.strip("`").rstrip("/").removeprefix("../")
        return code if bare in (name, Path(name).name) else f"{text} ({code})"

    return LINK.sub(replaced, FENCE.sub(r"\1", markdown))
