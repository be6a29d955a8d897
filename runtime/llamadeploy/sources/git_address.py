"""The URL of a git repository: what is accepted, and its parts without a secret."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from llamadeploy.sources.base import SourceError

_SCP = re.compile(
    r"(?P<login>[A-Za-z0-9_][\w.+-]*)@(?P<host>[A-Za-z0-9][\w.-]*|\[[0-9a-fA-F:.]+\]):(?P<path>[^:].*)"
)
_HOST = re.compile(r"[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?|\[[0-9a-fA-F:.]+\]")
_LOGIN = re.compile(r"[A-Za-z0-9_][\w.+-]*")
_RIGHT = "write https://host/path, ssh://user@host/path, user@host:path, or file:///path"


@dataclass(frozen=True, slots=True)
class GitAddress:
    """Where a repository is.

    Attributes:
        url: what git is given; never with a secret in it.
        scheme: ``https``, ``http``, ``ssh`` or ``file``.
        host: with the port where one is given; empty for ``file``.
        name: the repository's, for the folder of its code.
        credentials: user and password of an HTTP URL.
    """

    url: str
    scheme: str
    host: str
    name: str
    credentials: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take a URL apart.

        Raises:
            SourceError: it is not one that git may be given; the URL is not repeated, because it
                may hold a password.
        """
        if any(ord(character) < 33 for character in url):
            raise SourceError(f"source: the git URL holds spaces or control characters; {_RIGHT}")
        if "://" not in url:
            if match := _SCP.fullmatch(url):
                return cls(url, "ssh", match["host"], _name(match["path"]))
            raise SourceError(f"source: the git URL has no scheme; {_RIGHT}")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise SourceError(f"source: the git URL is malformed ({error}); {_RIGHT}") from None
        if parts.scheme not in ("https", "http", "ssh", "file"):
            raise SourceError(f"source: '{parts.scheme}' is no scheme for git here; {_RIGHT}")
        if parts.query or parts.fragment:
            raise SourceError("source: the git URL has a '?' or '#': leave out what follows it")
        if not parts.path.strip("/"):
            raise SourceError(f"source: the git URL names no repository; {_RIGHT}")
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost"):
                raise SourceError("source: a file URL has no host; write file:///path")
            return cls(f"file://{parts.path}", "file", "", _name(parts.path))
        host = f"[{host}]" if ":" in host else host
        if not _HOST.fullmatch(host):
            raise SourceError(f"source: the git URL has no proper host; {_RIGHT}")
        place = f"{host}:{port}" if port is not None else host
        if parts.scheme == "ssh":
            return cls(_ssh_url(parts.username, parts.password, place, parts.path),
                       "ssh", place, _name(parts.path))  # fmt: skip
        login = {"username": parts.username, "password": parts.password}
        credentials = {key: unquote(value) for key, value in login.items() if value}
        plain = f"{parts.scheme}://{place}{parts.path}"
        return cls(plain, parts.scheme, place, _name(parts.path), credentials)

    @property
    def hostname(self) -> str:
        """The host without its port."""
        return urlsplit(self.url).hostname or self.host.strip("[]")

    @property
    def port(self) -> int | None:
        """The port, where the URL has one."""
        return urlsplit(self.url).port if "://" in self.url else None

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        try:
            return ipaddress.ip_address(self.hostname).is_loopback
        except ValueError:
            return self.hostname == "localhost"


def _ssh_url(username: str | None, password: str | None, place: str, path: str) -> str:
    if password:
        raise SourceError(
            "source: SSH takes no password from a URL: leave it out, and use a key or an agent"
        )
    if username and not _LOGIN.fullmatch(username):
        raise SourceError(f"source: the git URL has no proper user; {_RIGHT}")
    return f"ssh://{username}@{place}{path}" if username else f"ssh://{place}{path}"


def _name(path: str) -> str:
    """``/group/repo.git/`` -> ``repo``."""
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".-")
    return name[:100] or "source"
