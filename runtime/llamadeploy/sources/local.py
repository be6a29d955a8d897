"""Source ``local``: a folder next to the deployment file, copied as it is now.

The copy is what makes a reload a reload: a running service never sees half-edited files, and
nothing that a service does to its code reaches the user's folder.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath

from llamadeploy.sources.base import FetchedSource, SourceContext, SourceError
from llamadeploy.spec.deployment import SourceSpec

IGNORED_NAMES = frozenset(
    {
        ".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".nox",
        ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints", ".DS_Store",
    }
)  # fmt: skip
"""Never part of a service's code, and often large."""

MAX_BYTES = 512 * 1024 * 1024
MAX_FILES = 50_000
"""Bounds of one source: they stop a home folder from being copied by mistake."""


def fetch_local(source: SourceSpec, holder: Path, context: SourceContext) -> FetchedSource:
    """Copy the folder ``source.name`` (relative to ``context.base_path``) below ``holder``.

    The copy keeps the folder's own relative name, so that ``path: src/workflow:attr`` and
    ``path: workflow:attr`` both find it.
    """
    try:
        root = _source_folder(source, context.base_path)
        destination = holder / _relative_name(source.name or ".", root)
        _Copier(root, destination, context.excluded).run()
    except OSError as error:
        where = error.filename or source.name
        raise SourceError(
            f"source: '{where}' cannot be copied: {error.strerror or error}; "
            "make the source folder readable and free some disk space"
        ) from error
    return FetchedSource(destination, {"type": "local", "name": source.name or "."})


def _source_folder(source: SourceSpec, base_path: Path) -> Path:
    name = source.name or "."
    if Path(name).is_absolute():
        raise SourceError(
            f"source.name: '{name}' is an absolute path; "
            "write the folder relative to the deployment file"
        )
    if not base_path.is_dir():
        raise SourceError(
            f"base_path: '{base_path}' is not a folder on the server's machine; "
            "give the folder that holds the deployment file"
        )
    folder = base_path / name
    if not folder.exists():
        raise SourceError(
            f"source.name: '{name}' does not exist in '{base_path}'; "
            "write the code's folder relative to the deployment file, or give --base-path"
        )
    if not folder.is_dir():
        raise SourceError(f"source.name: '{name}' is a file; write the folder that contains it")
    return folder.resolve()


def _relative_name(name: str, root: Path) -> PurePath:
    """``./a/b`` -> ``a/b``; ``.`` and paths that go up -> the folder's own name."""
    parts = [part for part in PurePath(name).parts if part != "."]
    if not parts or ".." in parts:
        return PurePath(root.name or "source")
    return PurePath(*parts)


class _Copier:
    """Copies one tree, counting what it copies."""

    def __init__(self, root: Path, destination: Path, excluded: tuple[Path, ...]) -> None:
        self._root = root
        self._destination = destination
        self._excluded = frozenset(os.path.realpath(path) for path in excluded)
        self._bytes = 0
        self._files = 0

    def run(self) -> None:
        self._folder(self._root, self._destination)

    def _folder(self, folder: Path, destination: Path) -> None:
        destination.mkdir(parents=True)
        for entry in self._entries(folder):
            target = destination / entry.name
            if entry.is_symlink():
                self._link(Path(entry.path), target)
            elif entry.is_dir(follow_symlinks=False):
                self._folder(Path(entry.path), target)
            elif entry.is_file(follow_symlinks=False):
                self._file(entry, target)
            # Sockets, pipes and devices are not code; opening a pipe would block for ever.

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.name not in IGNORED_NAMES and not self._skipped(entry):
                    yield entry

    def _skipped(self, entry: os.DirEntry[str]) -> bool:
        if entry.is_symlink() or not entry.is_dir():
            return entry.name.endswith(".pyc")
        return Path(entry.path, "pyvenv.cfg").exists() or entry.path in self._excluded

    def _file(self, entry: os.DirEntry[str], target: Path) -> None:
        information = entry.stat(follow_symlinks=False)
        self._files += 1
        self._bytes += information.st_size
        if self._files > MAX_FILES or self._bytes > MAX_BYTES:
            raise SourceError(
                f"source: '{self._root}' holds more than {MAX_FILES} files or "
                f"{MAX_BYTES // (1024 * 1024)} MiB; write a folder with the code alone"
            )
        shutil.copyfile(entry.path, target, follow_symlinks=False)
        target.chmod(stat.S_IMODE(information.st_mode) | stat.S_IRUSR | stat.S_IWUSR)

    def _link(self, link: Path, target: Path) -> None:
        """Recreate a link that stays in the tree, as a relative one; refuse any other."""
        pointed = Path(os.path.realpath(link))
        if not pointed.is_relative_to(self._root):
            raise SourceError(
                f"source: the symbolic link '{link.relative_to(self._root)}' leaves the folder "
                f"'{self._root}'; replace it by a copy of what it points to"
            )
        self._files += 1
        target.symlink_to(os.path.relpath(pointed, os.path.realpath(link.parent)))
