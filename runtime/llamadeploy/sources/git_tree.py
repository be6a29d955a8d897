"""A commit's files -> a folder, byte by byte: no attribute, filter or hook has a say.

git's own checkout is not used: what it writes depends on ``.gitattributes``, and here every path is
checked before anything is written.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from llamadeploy.sources.base import SourceError
from llamadeploy.sources.git_command import Git

log = logging.getLogger(__name__)

MAX_BYTES = 512 * 1024 * 1024
MAX_FILES = 50_000
"""Bounds of one source, the same as those of a local one."""

MAX_LINK = 4096
"""Bytes of a symbolic link's target: Linux's PATH_MAX."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    mode: str
    object_id: str
    size: int

    @property
    def is_link(self) -> bool:
        return self.mode == "120000"


def export_tree(git: Git, commit: str, root: Path) -> None:
    """Write the files of ``commit`` into ``root``, which is made here.

    Raises:
        SourceError: a path or link leaves the tree, or there is too much; what was written so far
            is for the caller to remove.
    """
    entries = _entries(git, commit)
    root.mkdir()
    with TemporaryFile(dir=root.parent) as wanted:
        wanted.write("".join(f"{each.object_id}\n" for each in entries).encode())
        wanted.seek(0)
        with git.stream("cat-file", "--batch", stdin=wanted) as command:
            links = [(root / e.path, _write(e, root, command.stdout)) for e in entries]
            code, errors = command.finish()
    if code != 0:
        raise SourceError(f"source: git cat-file failed: {errors[-1:]}")
    _make_links(root, {path: target for path, target in links if target})


def _entries(git: Git, commit: str) -> list[_Entry]:
    output = git.local("ls-tree", "-r", "-l", "-z", "--full-tree", commit)
    if output.code != 0:
        raise SourceError(f"source: git ls-tree failed: {git.last_line(output)}")
    entries = []
    for line in os.fsdecode(output.stdout).split("\0")[:-1]:
        head, _, path = line.partition("\t")
        mode, kind, object_id, size = head.split()
        if kind == "commit":
            log.info("the submodule '%s' is left out", path)
            continue
        entries.append(_Entry(_checked(path), mode, object_id, int(size)))
    if len(entries) > MAX_FILES or sum(each.size for each in entries) > MAX_BYTES:
        raise SourceError(
            f"source: the repository holds more than {MAX_FILES} files or "
            f"{MAX_BYTES // (1024 * 1024)} MiB; use one with the code alone"
        )
    return entries


def _checked(path: str) -> str:
    """``path``, which git itself would refuse to check out if it were wrong."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or part.lower() in (".git", "git~1") for part in parts):
        raise SourceError(f"source: the repository holds the path {path!r}, which is not safe")
    return path


def _write(entry: _Entry, root: Path, stream: IO[bytes]) -> bytes:
    """Take one file off the stream; a link's target is returned, and its link made later."""
    header = stream.readline().split()
    if len(header) != 3 or header[0].decode() != entry.object_id or int(header[2]) != entry.size:
        raise SourceError(f"source: git does not have the file {entry.path!r} complete")
    if entry.is_link:
        if entry.size > MAX_LINK:
            raise SourceError(f"source: the symbolic link {entry.path!r} is too long")
        target = stream.read(entry.size)
        stream.read(1)
        return target
    path = root / entry.path
    mode = 0o755 if entry.mode == "100755" else 0o644
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            left = entry.size
            while left and (data := stream.read(min(left, _CHUNK))):
                file.write(data)
                left -= len(data)
    except OSError as error:
        raise SourceError(
            f"source: the file {entry.path!r} cannot be written: {error.strerror or error}; "
            "give it a name of its own, and free some disk space"
        ) from error
    stream.read(1)  # the line's end after each object
    return b""


def _make_links(root: Path, links: dict[Path, bytes]) -> None:
    """Make the links when every file is there: nothing was written through one. Then look where
    they lead, through each other too."""
    for path, target in links.items():
        text = os.fsdecode(target)
        if text.startswith("/") or "\0" in text:
            raise _leaves(path, root)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(text)
        except OSError as error:
            raise SourceError(
                f"source: the symbolic link '{path.relative_to(root)}' cannot be made: "
                f"{error.strerror or error}"
            ) from error
    real = Path(os.path.realpath(root))
    for path in links:
        if not Path(os.path.realpath(path)).is_relative_to(real):
            raise _leaves(path, root)


def _leaves(link: Path, root: Path) -> SourceError:
    return SourceError(
        f"source: the symbolic link '{link.relative_to(root)}' leaves the repository; "
        "replace it by a copy of what it points to"
    )
