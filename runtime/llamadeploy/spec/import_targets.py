"""Where a service's ``path`` may lead: both readings of ``dir/module:attribute``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from llamadeploy.exceptions import ConfigurationError


@dataclass(frozen=True)
class ImportTarget:
    """One place to look at: import ``module`` with ``sys_path_entry`` on ``sys.path``.

    ``sys_path_entry`` is relative to the folder that holds the source (``"."`` is that folder).
    """

    module: str
    attr: str
    sys_path_entry: str

    @property
    def files(self) -> tuple[str, str]:
        """The files, relative to the same folder, one of which must exist for a hit."""
        stem = PurePosixPath(self.sys_path_entry, *self.module.split("."))
        return f"{stem}.py", str(stem / "__init__.py")


def candidate_imports(path: str, source_name: str | None) -> list[ImportTarget]:
    """The places to look at, best first.

    0.8.1 resolves ``path`` against the folder that *holds* the source (``source.name: src`` with
    ``path: src/workflow:attr``); its documentation writes it relative to the source itself
    (``path: workflow:attr``). The first of the two whose file exists is the one to import, so that
    what worked there means the same here.

    Args:
        path: ``dir/module:attribute``; the module may be dotted.
        source_name: the source's folder below the one that holds it; None for sources that are
            that folder themselves (git, configMap).

    Raises:
        ConfigurationError: ``path`` is not of that form, or leads outside of the source.
    """
    location, separator, attr = path.partition(":")
    place = PurePosixPath(location)
    if not separator or not attr or not place.name:
        raise ConfigurationError(f"path: got {path!r}; write 'dir/module:attribute'")
    if place.is_absolute() or ".." in place.parts:
        right = "write it relative to the source"
        raise ConfigurationError(f"path: {path!r} leads outside of the source; {right}")
    entries = [place.parent]
    if source_name is not None:
        inside = PurePosixPath(source_name) / place.parent
        entries += [inside] if inside not in entries else []
    return [ImportTarget(place.name, attr, str(entry)) for entry in entries]
