"""The simulation's tables, and where they stand in docs/scaling.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scaling.loads import Load
from benchmarks.scaling.measure import Measures

BEGIN, END = "<!-- simulation: written by python -m benchmarks.scaling -->", "<!-- /simulation -->"


def section(load: Load, found: list[Measures], picture: str) -> str:
    """Heading, table and picture of one load."""
    lines = [
        f"### {load.title}",
        "",
        "| | peak | overshoot | drained after | wait p95 / max | turns | changes |"
        " tasks disturbed | replica-hours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *map(_row, found),
        "",
        f"![Replicas and waiting tasks: {load.title}]({picture})",
        "",
    ]
    return "\n".join(lines)


def _row(each: Measures) -> str:
    overshoot = "" if each.overshoot is None else f"{each.overshoot:+.0%}"
    drain = "" if each.drain is None else f"{each.drain:.0f} s"
    cells = (
        each.controller,
        str(each.peak),
        overshoot,
        drain,
        f"{each.wait_p95:.1f} s / {each.wait_max:.1f} s",
        str(each.turns),
        str(each.changes),
        str(each.disturbed),
        f"{each.replica_seconds / 3600:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def write(page: Path, text: str) -> None:
    """Between the page's two marks. Raises ValueError: it has none."""
    content = page.read_text()
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: has no line {BEGIN!r} and {END!r} below it")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
