"""The contract of a source: put a service's code into a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.spec.deployment import SourceSpec


class SourceError(ConfigurationError):
    """A service's code could not be fetched; the message says from where and what to change."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source may need to know beside its own specification.

    Attributes:
        base_path: the folder that relative paths start from: the deployment file's.
        excluded: folders that are never taken as source: the server's own data.
    """

    base_path: Path
    excluded: tuple[Path, ...] = ()


class Source(Protocol):
    """Fetches one type of source. Blocking: called in a thread."""

    def __call__(self, source: SourceSpec, holder: Path, context: SourceContext) -> Path:
        """Write the code below ``holder`` (an existing, empty folder); return the code's root.

        Raises:
            SourceError: the code is not there, not readable, too large, or leaves its folder.
        """
        ...
