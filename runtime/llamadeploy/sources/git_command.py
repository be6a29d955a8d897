"""Runs git so that it can do nothing but talk to one repository.

Nothing of the user's or the machine's git configuration is read, no hook, prompt, helper or other
transport is used, and what opens the repository reaches git through a pipe, or ssh through a file
of mode 0600 that is removed when the fetch ends: never on a command line, in a URL or in a
repository's configuration.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from llamadeploy.commands import (
    CommandOutput,
    CommandTimeoutError,
    RunningCommand,
    run_command,
    start_command,
)
from llamadeploy.sources.base import SourceContext, SourceError
from llamadeploy.sources.git_access import PREFIX, GitAccess, GitSettings
from llamadeploy.sources.git_address import GitAddress

_INHERITED = frozenset(
    {
        "PATH", "USER", "LOGNAME", "LD_LIBRARY_PATH", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
        "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    }
)  # fmt: skip
"""Nothing else of the server's environment reaches git: GIT_TRACE would write secrets to a log."""

_CONFIGURATION = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.askPass=", "credential.helper=",
    "submodule.recurse=false", "fetch.recurseSubmodules=false", "gc.auto=0",
    "maintenance.auto=false", "protocol.version=2", "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
)  # fmt: skip

_SSH_OPTIONS = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "PasswordAuthentication=no",
    "ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=4", "ForwardAgent=no",
    "ClearAllForwardings=yes", "PermitLocalCommand=no", "ControlMaster=no", "ControlPath=none",
)  # fmt: skip
"""Of these ``UpdateHostKeys`` and ``ControlMaster`` would write to the user's ``~/.ssh``."""


class Git:
    """git, set up for one repository in ``folder``, which it must have for itself.

    Raises:
        SourceError: from each method, where git cannot be run or takes too long.
    """

    def __init__(
        self,
        folder: Path,
        address: GitAddress,
        access: GitAccess,
        settings: GitSettings,
        context: SourceContext,
    ) -> None:
        self._folder = folder
        self._address = address
        self._access = access
        self._settings = settings
        self._context = context
        self._repository = folder / "repository.git"
        self._environ = self._make_environ(os.environ)

    def init(self, object_format: str) -> None:
        """Make the repository that everything is fetched into."""
        format_ = [f"--object-format={object_format}"] if object_format != "sha1" else []
        output = self._run(["init", "--quiet", "--bare", "--template=", *format_,
                            str(self._repository)])  # fmt: skip
        if output.code != 0:
            raise SourceError(f"source: git init failed: {self.last_line(output)}")

    def local(self, *arguments: str) -> CommandOutput:
        """Run git on what was fetched."""
        return self._run([f"--git-dir={self._repository}", *arguments])

    def remote(self, *arguments: str, outside: bool = False) -> CommandOutput:
        """Run git on the repository at the address.

        Args:
            outside: the command needs no repository here.
        """
        place = [] if outside else [f"--git-dir={self._repository}"]
        with self._login() as (options, descriptors):
            return self._run([*options, *place, *arguments], descriptors)

    @contextlib.contextmanager
    def stream(self, *arguments: str, stdin: IO[bytes] | None = None) -> Iterator[RunningCommand]:
        """Run git on what was fetched, reading its output as it comes."""
        argv = self._argv([f"--git-dir={self._repository}", *arguments])
        with self._translated(), start_command(
            argv, env=self._environ, cwd=self._folder, timeout=self._settings.timeout,
            cancellation=self._context.cancellation, stdin=stdin,
        ) as command:  # fmt: skip
            yield command

    def last_line(self, output: CommandOutput) -> str:
        """What git said last, without secrets."""
        told = [line for line in output.errors if not line.startswith("hint:")]
        return self._access.hide(told[-1] if told else f"exit code {output.code}")

    def said(self, output: CommandOutput) -> str:
        """All that git said, without secrets."""
        return self._access.hide("\n".join(output.errors))

    # -- parts ---------------------------------------------------------------------------------

    def _run(self, arguments: Sequence[str], descriptors: Sequence[int] = ()) -> CommandOutput:
        with self._translated():
            return run_command(
                self._argv(arguments), env=self._environ, cwd=self._folder,
                timeout=self._settings.timeout, cancellation=self._context.cancellation,
                pass_fds=descriptors,
            )  # fmt: skip

    def _argv(self, arguments: Sequence[str]) -> list[str]:
        options = [part for each in _CONFIGURATION for part in ("-c", each)]
        return ["git", *options, *arguments]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise SourceError("source: git is not installed on the server's machine; "
                              "install the package 'git'") from error  # fmt: skip
        except CommandTimeoutError as error:
            raise SourceError(
                f"source: {self._address.url}: git took longer than {self._settings.timeout:g} s; "
                f"set {PREFIX}TIMEOUT to more seconds if the repository is that large"
            ) from error

    @contextlib.contextmanager
    def _login(self) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """git's options for asking us for user and password, and what it reads them from.

        The helper is bound to this scheme and host: a server that redirects elsewhere gets nothing.
        """
        if self._address.scheme not in ("http", "https") or not self._access.has_login:
            yield [], ()
            return
        reading, writing = os.pipe()
        try:
            text = f"username={self._access.username}\npassword={self._access.password}\n"
            os.set_blocking(writing, False)
            if os.write(writing, text.encode()) < len(text.encode()):
                raise SourceError("source: the git password is too long")
            os.close(writing)
            writing = -1
            helper = f'!f() {{ if test "$1" = get; then cat /dev/fd/{reading}; fi; }}; f'
            key = f"credential.{self._address.scheme}://{self._address.host}.helper"
            yield ["-c", f"{key}={helper}"], (reading,)
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    def _make_environ(self, server: Mapping[str, str]) -> dict[str, str]:
        scheme = self._address.scheme
        environ = {name: server[name] for name in _INHERITED if name in server}
        if (authorities := server.get("SSL_CERT_FILE")) and "GIT_SSL_CAINFO" not in environ:
            environ["GIT_SSL_CAINFO"] = authorities
        environ |= {
            "HOME": str(self._folder),
            "XDG_CONFIG_HOME": str(self._folder),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CEILING_DIRECTORIES": str(self._folder.resolve().parent),
            # Plain HTTP may redirect to HTTPS, and nothing else to anything else.
            "GIT_ALLOW_PROTOCOL": "http:https" if scheme == "http" else scheme,
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        if scheme == "ssh":
            environ["GIT_SSH_COMMAND"] = self._ssh_command()
            environ["GIT_SSH_VARIANT"] = "ssh"
            if self._access.agent:
                environ["SSH_AUTH_SOCK"] = self._access.agent
        return environ

    def _ssh_command(self) -> str:
        """ssh without questions; with a key of ours nothing of the user's configuration counts."""
        words = ["ssh", *(part for each in _SSH_OPTIONS for part in ("-o", each))]
        if self._access.known_hosts is not None:
            path = self._private_file("known_hosts", self._access.known_hosts)
            words += [
                "-o",
                f"UserKnownHostsFile={_quoted(path)}",
                "-o",
                "GlobalKnownHostsFile=none",
            ]
        if self._access.ssh_key is not None:
            path = self._private_file("key", self._access.ssh_key)
            words += ["-F", "none", "-i", str(path)]
            words += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        return shlex.join(words)

    def _private_file(self, name: str, text: str) -> Path:
        path = self._folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n")
        return path


def _quoted(path: Path) -> str:
    """A path as ssh's option syntax wants it."""
    return '"' + str(path).replace("%", "%%") + '"'
