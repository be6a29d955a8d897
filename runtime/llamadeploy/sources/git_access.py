"""What opens a git repository: a token, a password, an SSH key or agent, and known hosts."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from llamadeploy.sources.base import SourceError
from llamadeploy.sources.git_address import GitAddress
from llamadeploy.spec.deployment import SourceSpec

PREFIX = "LLAMA_DEPLOY_GIT_"

DEFAULT_USERNAME = "x-access-token"
"""GitHub's name for whoever has a token; GitLab and Gitea accept any."""

DEFAULT_TIMEOUT = 300.0

_SHORTEST_LINE = 16
"""Lines of a key that are shorter say nothing of it."""


@dataclass(frozen=True, slots=True)
class GitSettings:
    """What the environment gives for every repository whose source brings nothing of its own.

    Attributes:
        token: ``LLAMA_DEPLOY_GIT_TOKEN``, for HTTPS; over plain HTTP to this machine only.
        username: ``LLAMA_DEPLOY_GIT_USERNAME``, sent with the token.
        token_hosts: ``LLAMA_DEPLOY_GIT_TOKEN_HOSTS``, separated by commas: the only hosts that
            get the token; empty: every one that asks.
        ssh_key: ``LLAMA_DEPLOY_GIT_SSH_KEY``, a private key's text, or what the file named by
            ``LLAMA_DEPLOY_GIT_SSH_KEY_FILE`` holds.
        known_hosts: the content of the file named by ``LLAMA_DEPLOY_GIT_KNOWN_HOSTS``.
        agent: ``SSH_AUTH_SOCK``.
        timeout: ``LLAMA_DEPLOY_GIT_TIMEOUT``, seconds for one git command.
    """

    token: str | None = field(default=None, repr=False)
    username: str = DEFAULT_USERNAME
    token_hosts: tuple[str, ...] = ()
    ssh_key: str | None = field(default=None, repr=False)
    known_hosts: str | None = field(default=None, repr=False)
    agent: str | None = None
    timeout: float = DEFAULT_TIMEOUT

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``environ``, the process's own by default. Blocking: reads the named files.

        Raises:
            SourceError: a value is wrong; the message names the variable.
        """
        environ = os.environ if environ is None else environ
        given = {
            name.removeprefix(PREFIX): value.strip()
            for name, value in environ.items()
            if name.startswith(PREFIX) and value.strip()
        }
        hosts = given.get("TOKEN_HOSTS", "")
        return cls(
            token=given.get("TOKEN"),
            username=given.get("USERNAME", DEFAULT_USERNAME),
            token_hosts=tuple(host.strip().lower() for host in hosts.split(",") if host.strip()),
            ssh_key=given.get("SSH_KEY") or _content("SSH_KEY_FILE", given),
            known_hosts=_content("KNOWN_HOSTS", given),
            agent=environ.get("SSH_AUTH_SOCK") or None,
            timeout=_seconds("TIMEOUT", given),
        )


@dataclass(frozen=True, slots=True)
class GitAccess:
    """What one repository is opened with; see :func:`git_access`."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    ssh_key: str | None = field(default=None, repr=False)
    known_hosts: str | None = field(default=None, repr=False)
    agent: str | None = None

    @property
    def has_login(self) -> bool:
        """Whether there is something to send to a server that asks for a user and password."""
        return bool(self.username or self.password)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may contain, in every form it is sent in; the longest first."""
        found = {self.password or self.username}
        if self.has_login:
            login = f"{self.username}:{self.password}".encode()
            found |= {quote(each, safe="") for each in found}
            found.add(base64.b64encode(login).decode())
        lines = (self.ssh_key or "").splitlines()
        found |= {line.strip() for line in lines if len(line.strip()) >= _SHORTEST_LINE}
        return tuple(sorted(filter(None, found), key=len, reverse=True))

    def hide(self, text: str) -> str:
        """``text`` without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def git_access(source: SourceSpec, address: GitAddress, settings: GitSettings) -> GitAccess:
    """What ``source`` brings itself, else what the environment gives.

    The keys of ``source.credentials`` are those of Kubernetes' Secrets: ``username`` and
    ``password`` (or ``token``), ``ssh-privatekey``, ``known_hosts``.

    Raises:
        SourceError: a value cannot be used.
    """
    own = {**address.credentials, **source.credentials}
    known_hosts = source.known_hosts or own.get("known_hosts") or settings.known_hosts
    if address.scheme == "ssh":
        key = own.get("ssh-privatekey") or settings.ssh_key
        if key is not None and _is_locked(key):
            raise SourceError(
                "source: the SSH key has a passphrase, which nobody is there to type; "
                "give a key without one, or load it into an SSH agent before the server starts"
            )
        return GitAccess(ssh_key=key, known_hosts=known_hosts, agent=settings.agent)
    if address.scheme == "file":
        return GitAccess()
    username, password = own.get("username", ""), own.get("password") or own.get("token") or ""
    if not (username or password) and _gets_token(address, settings):
        username, password = settings.username, settings.token or ""
    if password and not username:
        username = DEFAULT_USERNAME
    if any(character in username + password for character in "\n\r\0"):
        raise SourceError("source: the git user or password holds a line break; leave it out")
    return GitAccess(username=username, password=password)


def _gets_token(address: GitAddress, settings: GitSettings) -> bool:
    if not settings.token or (address.scheme == "http" and not address.is_loopback):
        return False
    return not settings.token_hosts or address.host.lower() in settings.token_hosts


def _is_locked(key: str) -> bool:
    """Whether a private key has a passphrase; ssh itself would only say that it was denied."""
    if "ENCRYPTED" in key:
        return True
    body = "".join(line for line in key.splitlines() if not line.startswith("-"))
    try:
        data = base64.b64decode(body[:64])
    except ValueError:
        return False
    # PROTOCOL.key of OpenSSH: the magic, then the cipher's name with its length before it.
    return data.startswith(b"openssh-key-v1\0") and data[19:23] != b"none"


def _content(name: str, given: Mapping[str, str]) -> str | None:
    path = given.get(name)
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{PREFIX}{name}: the file '{path}' cannot be read ({error}); "
            "set it to the path of a readable text file"
        ) from None


def _seconds(name: str, given: Mapping[str, str]) -> float:
    text = given.get(name, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise SourceError(f"{PREFIX}{name}: got {text!r}; set it to seconds, from above 0 to 86400")
    return seconds
