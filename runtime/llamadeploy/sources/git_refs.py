"""Branch, tag or commit -> the commit, fetched with as little else as the server allows."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from llamadeploy.commands import CommandOutput
from llamadeploy.sources.base import SourceError
from llamadeploy.sources.git_access import GitAccess
from llamadeploy.sources.git_address import GitAddress
from llamadeploy.sources.git_command import Git
from llamadeploy.sources.git_errors import git_error

_NOT_A_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^[-/.]|/$|//|\.lock$|\.$")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,40}|[0-9a-fA-F]{64}")
_FULL_LENGTHS = (40, 64)
"""Hex digits of a SHA-1 and a SHA-256."""

_NEEDS_ALL = re.compile(
    "not our ref|unadvertised object|does not support shallow|no such remote ref"
    "|couldn't find remote ref|expected .*, got",
    re.IGNORECASE,
)
"""The server offers no single commit, or nothing shallow: everything is fetched then."""

_FETCHED = "refs/llamadeploy/fetched"
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class GitRemote:
    """The repository at an address, fetched from with ``git``."""

    git: Git
    address: GitAddress
    access: GitAccess

    def fetch(self, ref: str | None) -> str:
        """Fetch what ``ref`` names (``None``: the default branch); return the commit's full id.

        A branch wins over a tag of the same name, and both over a commit.

        Raises:
            SourceError: there is no such ref, or the repository cannot be reached.
        """
        if ref is not None and (_NOT_A_REF.search(ref) or len(ref) > 500):
            raise SourceError(
                f"source: {ref!r} cannot be a git ref; write a branch, a tag or a commit"
            )
        wanted = _full_names(ref)
        found = self._list("HEAD", *wanted)
        size = max(map(len, found.values()), default=40)
        self.git.init("sha256" if size == 64 else "sha1")
        for name in wanted:
            if name in found:
                return self._fetch_one(name)
        if ref is not None and _COMMIT.fullmatch(ref):
            return self._fetch_commit(ref.lower())
        raise self._no_such(ref)

    def _list(self, *names: str) -> dict[str, str]:
        """Refs of the server, of ``names`` or all, with what they point to."""
        command = ("ls-remote", "--quiet", "--", self.address.url, *names)
        output = self.git.remote(*command, outside=True)
        if output.code != 0:
            raise self._error(output)
        lines = output.stdout.decode("utf-8", "replace").splitlines()
        pairs = (line.partition("\t") for line in lines)
        # A pattern matches the ends of names, so what comes back may be another ref's.
        return {name: id_ for id_, _, name in pairs if not names or name in names}

    def _fetch_one(self, name: str) -> str:
        output = self._fetch(True, f"+{name}:{_FETCHED}")
        if output.code != 0 and _NEEDS_ALL.search(self.git.said(output)):
            output = self._fetch(False, f"+{name}:{_FETCHED}")
        if output.code != 0:
            raise self._error(output)
        return self._commit(_FETCHED, name)

    def _fetch_commit(self, commit: str) -> str:
        if len(commit) in _FULL_LENGTHS:
            output = self._fetch(True, f"+{commit}:{_FETCHED}")
            if output.code == 0:
                return self._commit(_FETCHED, commit)
            if not _NEEDS_ALL.search(self.git.said(output)):
                raise self._error(output)
        output = self._fetch(False, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        if output.code != 0:
            raise self._error(output)
        return self._commit(commit, commit)

    def _fetch(self, shallow: bool, *refspecs: str) -> CommandOutput:
        options = ["--depth=1"] if shallow else []
        return self.git.remote(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules",
            *options, "--", self.address.url, *refspecs,
        )  # fmt: skip

    def _commit(self, revision: str, name: str) -> str:
        output = self.git.local(
            "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"
        )
        if output.code == 0:
            return output.stdout.decode().strip()
        said = self.git.said(output)
        if "ambiguous" in said:
            raise SourceError(
                f"source: {self.address.url}: several commits begin with '{name}'; write more of it"
            )
        if revision == name:
            raise SourceError(
                f"source: {self.address.url}: there is no commit '{name}' on any branch or tag; "
                "push it, or write another"
            )
        raise SourceError(f"source: {self.address.url}: '{name}' is not a commit; name another ref")

    def _no_such(self, ref: str | None) -> SourceError:
        refs = self._list()
        names = [name.split("/", 2)[2] for name in refs if name.startswith("refs/heads/")]
        names += [
            name.split("/", 2)[2]
            for name in refs
            if name.startswith("refs/tags/") and not name.endswith("^{}")
        ]
        if ref is None or not names:
            return SourceError(
                f"source: {self.address.url}: the repository has no default branch; "
                "push a commit, or name a branch"
            )
        near = difflib.get_close_matches(ref, names, n=_NEAREST, cutoff=0.5)
        some = near or sorted(names)[:_NEAREST]
        words = "the nearest are" if near else "there are"
        more = ", ..." if not near and len(names) > _NEAREST else ""
        return SourceError(
            f"source: {self.address.url}: there is no branch or tag '{ref}'; "
            f"{words}: {', '.join(some)}{more}"
        )

    def _error(self, output: CommandOutput) -> SourceError:
        return git_error(self.address, self.access, self.git.said(output))


def _full_names(ref: str | None) -> list[str]:
    if ref is None:
        return ["HEAD"]
    if ref.startswith("refs/") or ref == "HEAD":
        return [ref]
    return [f"refs/heads/{ref}", f"refs/tags/{ref}"]
