"""The contract of a source: put a service's code into a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llamadeploy.commands import Cancellation
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.spec.deployment import SourceSpec


class SourceError(ConfigurationError):
    """A service's code could not be fetched; the message says from where and what to change."""


def _silent(text: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source may need to know beside its own specification.

    Attributes:
        base_path: the folder that relative paths start from: the deployment file's.
        excluded: folders that are never taken as source: the server's own data.
        cancellation: ends a fetch that nobody waits for any more.
        progress: told, in a few words without secrets, what is being done.
    """

    base_path: Path
    excluded: tuple[Path, ...] = ()
    cancellation: Cancellation = field(default_factory=Cancellation)
    progress: Callable[[str], None] = _silent


@dataclass(frozen=True, slots=True)
class FetchedSource:
    """Code that was fetched.

    Attributes:
        root: the folder with the code.
        origin: where it came from, for status, without secrets: ``type``, and for git ``url``,
            ``ref`` and ``commit``.
    """

    root: Path
    origin: dict[str, str]


class Source(Protocol):
    """Fetches one type of source. Blocking: called in a thread."""

    def __call__(self, source: SourceSpec, holder: Path, context: SourceContext) -> FetchedSource:
        """Write the code below ``holder`` (an existing, empty folder).

        Raises:
            SourceError: the code is not there, not readable, too large, or leaves its folder.
            CommandCancelledError: ``context.cancellation`` was cancelled.
        """
        ...
