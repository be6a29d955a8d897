"""The table, as Markdown, and its place in the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from chaos.blows import KILLS, NETWORK, STOPS
from chaos.feats import Feat
from chaos.rounds import Row

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- chaos: begin -->\n", "<!-- chaos: end -->\n"

HEAD = (
    "What happened", "Tasks", "Done before", "Lost", "Wrong or second results",
    "All done, s after ready", "Told to come again", "Broken calls", "Runs begun again",
    "Ran to the end twice",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """One table per pair."""
    parts = []
    for name in dict.fromkeys(row.pair for row in rows):
        lines = [_line((f"**{name}**: {HEAD[0].lower()}", *HEAD[1:])), "|---" * len(HEAD) + "|"]
        for row in sorted(rows, key=_place):
            if row.pair == name:
                lines.append(
                    _line(
                        (
                            row.what, row.tasks, row.done_before, row.lost, row.wrong,
                            row.seconds, row.put_off, row.broken, row.begun, row.twice,
                        )
                    )
                )  # fmt: skip
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def feats_table(feats: Sequence[Feat]) -> str:
    """What was done, on which pair, and what was seen."""
    lines = [_line(("What", "Queue and store", "Seen")), "|---|---|---|"]
    return "\n".join([*lines, *(_line((f.what, f.pair, f.seen)) for f in feats)]) + "\n"


class Results:
    """Rows and feats of this run and, where they are kept in a file, of earlier ones: a full run
    may be made in parts. The newest of each kind counts.

    Args:
        file: one JSON object per line.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen: dict[tuple[str, str], Row | Feat] = {}
        if file is not None and file.exists():
            for line in file.read_text().splitlines():
                kind, fields = msgspec.json.decode(line)
                if kind == "row":
                    self._keep(msgspec.convert(fields, Row))
                else:
                    self._keep(msgspec.convert(fields, Feat))

    @property
    def rows(self) -> list[Row]:
        return [each for each in self._seen.values() if isinstance(each, Row)]

    @property
    def feats(self) -> list[Feat]:
        return [each for each in self._seen.values() if isinstance(each, Feat)]

    def add(self, result: Row | Feat) -> None:
        """Show and keep it."""
        print("held  " if result.held else "FAILED", result, flush=True)
        self._keep(result)
        if self._file is not None:
            kind = "row" if isinstance(result, Row) else "feat"
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode([kind, result]) + b"\n")

    def _keep(self, result: Row | Feat) -> None:
        self._seen[result.pair, result.what] = result


def write(rows: Sequence[Row], feats: Sequence[Feat]) -> None:
    """Put the tables between the markers of the page."""
    text = PAGE.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin and end, f"{PAGE} has no markers {BEGIN!r} and {END!r}"
    system = (
        f"Measured with Python {platform.python_version()} on {os.cpu_count()} processors that "
        "other work kept busy, servers and clients on the same machine."
    )
    body = "\n".join([table(rows), feats_table(feats), system + "\n"])
    PAGE.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}")


def _place(row: Row) -> int:
    """Rows stand in the order of the blows."""
    for place, blow in enumerate((*KILLS, *STOPS, *NETWORK)):
        if row.what.startswith(blow.name.partition("{}")[0]):
            return place
    return -1


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
