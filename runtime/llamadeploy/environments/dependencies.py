"""``python-dependencies`` of a service -> what is to be installed, and what that depends on."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from llamadeploy.exceptions import ConfigurationError

_FILE_OPTIONS = {"-r": "-r", "--requirement": "-r", "-c": "-c", "--constraint": "-c"}
_PATH_OPTIONS = {"-e": "-e", "--editable": "-e"}
_VALUE_OPTIONS = {
    "-i": "--index-url", "--index-url": "--index-url", "--extra-index-url": "--extra-index-url",
    "-f": "--find-links", "--find-links": "--find-links", "--no-binary": "--no-binary",
    "--only-binary": "--only-binary", "--trusted-host": "--trusted-host",
}  # fmt: skip
_IN_THE_FILE = frozenset({"-i", "--index-url", "--extra-index-url", "-f", "--find-links"})
"""Their URLs may hold a password, which must not be on a command line."""

_FLAGS = frozenset({"--no-index", "--pre", "--no-deps", "--require-hashes", "--no-build-isolation"})
_WITHOUT_EFFECT = frozenset(
    {"-U", "--upgrade", "-q", "--quiet", "--prefer-binary", "--no-cache-dir", "--no-input",
     "--disable-pip-version-check", "--force-reinstall", "-I", "--ignore-installed"}
)  # fmt: skip
"""In a new environment there is nothing to upgrade; the rest is how we run the installer anyway."""

_INCLUDE = re.compile(r"^\s*(-r|--requirement|-c|--constraint)(?:\s*=\s*|\s+|(?=[^\s=-]))(\S.*)$")
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz")
SKIPPED = frozenset({"__pycache__", ".git", ".venv", "node_modules"})
"""Folders that are no part of a package's source."""


@dataclass(frozen=True, slots=True)
class LocalPackage:
    """A folder with a package's source, or an archive: to be installed from this machine."""

    path: Path
    extras: str = ""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """A set of dependencies, with every path resolved.

    Attributes:
        lines: lines of a requirements file; an index's URL in them may hold a password.
        packages: what is installed from this machine.
        options: options of the install command.
        digest: changes when the set does: its arguments in any order, and what the files hold.
        hashed: every package must have one of the hashes that a file gives for it.
    """

    lines: tuple[str, ...] = field(repr=False)
    packages: tuple[LocalPackage, ...]
    options: tuple[str, ...]
    digest: str
    hashed: bool = False

    @classmethod
    def read(cls, arguments: Sequence[str], folders: Sequence[Path]) -> Self:
        """Read ``arguments``, those of ``pip install``. Blocking.

        Args:
            folders: where relative paths start from; the first that has the path wins, and none
                is left.

        Raises:
            ConfigurationError: an option is not possible here, or a path is not there.
        """
        reader = _Reader(tuple(folders))
        reader.read(_words(arguments))
        digest = hashlib.sha256()
        for part in sorted(reader.identity):
            digest.update(part.encode(errors="surrogateescape") + b"\0")
        for path, name in sorted(reader.paths.items(), key=lambda item: item[1]):
            for each in _contents(path, name):
                digest.update(each)
        return cls(
            lines=tuple(reader.lines),
            packages=tuple(reader.packages),
            options=tuple(reader.options),
            digest=digest.hexdigest(),
            hashed=reader.hashed,
        )


class _Reader:
    """Sorts arguments, and notes what the set depends on."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self.lines: list[str] = []
        self.packages: list[LocalPackage] = []
        self.options: list[str] = []
        self.identity: list[str] = []
        """The arguments, with paths as they were written: the set is the same in another folder."""
        self.paths: dict[Path, str] = {}
        self.hashed = False

    def read(self, words: Iterator[str]) -> None:
        for word in words:
            option, value = _split_option(word)
            if option in _FLAGS and value is None:
                self.options.append(option)
                self.identity.append(option)
                self.hashed |= option == "--require-hashes"
            elif option in _WITHOUT_EFFECT and value is None:
                continue
            elif not word.startswith("-"):
                self._requirement(word)
            elif option in _FILE_OPTIONS | _PATH_OPTIONS | _VALUE_OPTIONS:
                self._valued(option, next(words, None) if value is None else value)
            else:
                raise _error(
                    f"the option '{option}' is not possible here",
                    "use requirements, paths, and the options "
                    + ", ".join(sorted({*_FILE_OPTIONS, *_VALUE_OPTIONS, *_FLAGS, "-e"})),
                )

    def _valued(self, option: str, value: str | None) -> None:
        if not value:
            raise _error(f"'{option}' has no value", "write it after the option")
        if option in _PATH_OPTIONS:
            # The source is replaced at the next reload; an editable install would follow it.
            self._requirement(value)
        elif option in _FILE_OPTIONS:
            self._path_option(_FILE_OPTIONS[option], value)
        elif _VALUE_OPTIONS[option] == "--find-links" and "://" not in value:
            self._path_option("--find-links", value)
        elif option in _IN_THE_FILE:
            self._line(f"{_VALUE_OPTIONS[option]} {value}")
        else:
            self.options += [_VALUE_OPTIONS[option], value]
            self.identity.append(f"{_VALUE_OPTIONS[option]} {value}")

    def _requirement(self, text: str) -> None:
        if not _is_path(text):
            self._line(text)
            return
        name, bracket, extras = text.partition("[")
        path = self._path(name)
        self.packages.append(LocalPackage(path, bracket + extras))
        self._note(path, name, bracket + extras)

    def _path_option(self, option: str, name: str) -> None:
        path = self._path(name)
        self.options += [option, str(path)]
        self._note(path, name, option)
        if option != "--find-links":
            self._included(path)

    def _note(self, path: Path, name: str, how: str) -> None:
        self.paths[path] = os.path.normpath(name)
        self.identity.append(f"{how} {os.path.normpath(name)}")

    def _line(self, line: str) -> None:
        self.lines.append(line)
        self.identity.append(line)

    def _included(self, file: Path) -> None:
        """Note the files that a requirements file names: their content counts too."""
        if not file.is_file():
            raise _error(f"'{file.name}' is not a file", "write a requirements file")
        text = _text(file)
        self.hashed |= "--hash=" in text
        for line in text.splitlines():
            if match := _INCLUDE.match(line):
                self._include(file, match[2].split(" #")[0].strip().strip("'\""))
            elif _names_a_path(line):
                raise _error(
                    f"'{file.name}' has the path '{line.strip()}'",
                    "write it as an item of python-dependencies instead",
                )

    def _include(self, file: Path, name: str) -> None:
        if "://" in name:
            return
        path = (file.parent / name).resolve()
        if not path.is_file():
            raise _error(f"'{file.name}' names '{name}', which is not there", "add it")
        if path not in self.paths:
            self.paths[path] = os.path.normpath(name)
            self._included(path)

    def _path(self, name: str) -> Path:
        if Path(name).is_absolute():
            raise _error(f"'{name}' is an absolute path", "write it relative to the source")
        for folder in self._folders:
            path = (folder / name).resolve()
            if path.exists():
                if path.is_relative_to(folder.resolve()):
                    return path
                raise _error(f"'{name}' leaves the source", "write a path without '..'")
        looked = ", ".join(str(folder / name) for folder in self._folders)
        raise _error(
            f"'{name}' is not there (looked at {looked})", "write a path relative to the source"
        )


def _words(arguments: Sequence[str]) -> Iterator[str]:
    """``["-r requirements.txt"]`` is two words; a requirement with a marker stays one."""
    for argument in arguments:
        if not argument.strip():
            raise _error("an item is empty", "remove it")
        if any(character in argument.strip() for character in "\n\r\0"):
            raise _error("an item holds a line break", "write one requirement per item")
        if not argument.lstrip().startswith("-"):
            yield argument.strip()
            continue
        try:
            yield from shlex.split(argument)
        except ValueError as error:
            raise _error(f"{argument!r} cannot be read ({error})", "close the quotes") from None


def _split_option(word: str) -> tuple[str, str | None]:
    """``--index-url=x`` and ``-rx`` -> the option and its value."""
    if word.startswith("--"):
        option, equals, value = word.partition("=")
        return option, value if equals else None
    if word.startswith("-") and len(word) > 2 and word[:2] in _FILE_OPTIONS | _PATH_OPTIONS:
        return word[:2], word[2:]
    return word, None


def _is_path(text: str) -> bool:
    """Whether pip would take it for a file or folder: it has a slash or is an archive's name."""
    bare = text.partition(";")[0].partition("[")[0].strip()
    if "://" in text or " @ " in text or "@file:" in text:
        return False
    return bare in (".", "..") or "/" in bare or bare.endswith(_ARCHIVES)


def _names_a_path(line: str) -> bool:
    """Whether a line of a requirements file installs something of this machine: to what such a
    path is relative pip and uv tell differently, and changes in it would go unnoticed."""
    text = line.split(" #")[0].strip()
    if match := re.match(r"(-e|--editable)[\s=]+(\S+)", text):
        return "://" not in match[2]
    return not text.startswith(("-", "#")) and _is_path(text.split(" --")[0])


def _contents(path: Path, name: str) -> Iterator[bytes]:
    """Names and contents, each with its length; a symbolic link counts as what it points to."""
    if path.is_file():
        yield from _measured(os.fsencode(name), path.read_bytes())
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(each for each in folders if each not in SKIPPED)
        for file in sorted(files):
            inner = Path(folder, file)
            if inner.is_file() and not file.endswith(".pyc"):
                relative = os.fsencode(f"{name}/{inner.relative_to(path)}")
                yield from _measured(relative, inner.read_bytes())


def _measured(*parts: bytes) -> Iterator[bytes]:
    for part in parts:
        yield f"{len(part)}:".encode() + part


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _error(
            f"'{file.name}' cannot be read ({error})", "make it a UTF-8 text file"
        ) from None


def _error(wrong: str, right: str) -> ConfigurationError:
    return ConfigurationError(f"python-dependencies: {wrong}; {right}")
