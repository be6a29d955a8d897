"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written by `make reference`; do not edit. -->\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a ``|`` in a cell is escaped, a line's end becomes a space."""
    lines = [_line(head), "|" + "---|" * len(head), *(_line(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    clean = (" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(clean)} |"


def anchor(heading: str) -> str:
    """A heading that holds nothing but letters, digits, dots and hyphens, as a link's target."""
    return heading.lower().replace(".", "")
