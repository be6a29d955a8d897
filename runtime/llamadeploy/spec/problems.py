"""What is wrong with a deployment file: one line per problem, with the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamadeploy.exceptions import ConfigurationError

Path = tuple[str | int, ...]
"""Where a value sits in a document: mapping keys and list indices, outermost first."""


@dataclass(frozen=True)
class SpecProblem:
    """One thing that is wrong.

    ``str()`` gives ``file:line: field.path: what was wrong; what would be right``; the parts that
    are unknown (no line in a model made in Python, no field in a YAML error) are left out.
    """

    field: str
    wrong: str
    right: str
    line: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        place = self.file or ("" if self.line is None else "<text>")
        if self.line is not None:
            place += f":{self.line}"
        return ": ".join(
            part for part in (place, self.field, f"{self.wrong}; {self.right}") if part
        )


class SpecError(ConfigurationError):
    """A deployment file is wrong; ``errors`` has every problem found, in the file's order."""

    def __init__(self, errors: Sequence[SpecProblem]) -> None:
        self.errors = sorted(errors, key=lambda problem: problem.line or 0)
        super().__init__("\n".join(str(problem) for problem in self.errors))


def format_path(path: Path) -> str:
    """``("services", "echo", "env-files", 0)`` -> ``services.echo.env-files[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was most likely meant to be, or None."""
    by_key = {_fold(name): name for name in known}
    found = difflib.get_close_matches(_fold(word), list(by_key), n=1, cutoff=0.6)
    return by_key[found[0]] if found else None


def suggest(word: str, known: Iterable[str], *, noun: str = "keys") -> str:
    """The cure for an unknown word: the nearest known one, else all of them."""
    names = sorted(known)
    match = nearest(word, names)
    if match is not None:
        return f"did you mean '{match}'?"
    if not names:
        return f"there are no {noun} here"
    return f"known {noun}: {', '.join(names)}"


def _fold(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")
