"""Python dependencies -> the exact packages with their hashes, and how those are installed.

A lock is a requirements file in two parts. What comes from an index, or from an archive's URL, has
a hash. After :data:`UNHASHED` stand version control URLs at a commit, for which pip knows no hash.
Folders and archives of the source itself are not in it: the source is pinned already.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llamadeploy.commands import Cancellation, CommandTimeoutError, start_command
from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.environments.installer import Installer, without_logins
from llamadeploy.environments.runtime import runtime_constraints
from llamadeploy.exceptions import ConfigurationError, DeploymentError

UNHASHED = "# without hashes: version control"
LOCK_SECONDS = 1500.0
_TOLD_LINES = 15
_LOGIN = re.compile(r"://[^/\s@:]*:[^/\s@]*@|^https?://[^/\s@]+@")
_SOURCE_OPTIONS = frozenset({"--no-index", "--pre", "--no-build-isolation"})
_VALUED_OPTIONS = frozenset({"--find-links", "--no-binary", "--only-binary", "--trusted-host"})

PIP = Installer("pip", (sys.executable, "-m", "pip"))
"""Not uv: it writes no report of what it would install, and pip is what the image has."""


def lock(
    dependencies: Dependencies,
    scratch: Path,
    cancellation: Cancellation,
    progress: Callable[[str], None],
) -> str:
    """The lock of a set of dependencies, for this Python on this platform. Blocking.

    Args:
        scratch: an empty folder, for files.
        progress: told each line of pip's output.

    Raises:
        ConfigurationError: a dependency cannot be locked.
        DeploymentError: they cannot be resolved; the message has pip's last lines.
        CommandCancelledError: ``cancellation`` was cancelled.
    """
    report = scratch / "report.json"
    requirements = scratch / "requirements.txt"
    packages = [f"{each.path}{each.extras}" for each in dependencies.packages]
    requirements.write_text("".join(f"{line}\n" for line in [*dependencies.lines, *packages]))
    limits: list[str] = []
    if not dependencies.hashed:
        constraints = scratch / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in runtime_constraints()))
        limits = ["--constraint", str(constraints)]
    argv = [
        *PIP.command, "install", "--dry-run", "--ignore-installed", "--no-input",
        "--progress-bar=off", "--disable-pip-version-check", "--report", str(report), *limits,
        *dependencies.options, "-r", str(requirements),
    ]  # fmt: skip
    progress("resolving python-dependencies")
    environ = PIP.environ(os.environ, scratch / "cache", dependencies)
    try:
        with start_command(
            argv, env=environ, cwd=scratch, timeout=LOCK_SECONDS, cancellation=cancellation,
            on_line=lambda line: progress(f"pip: {without_logins(line)}"), merge=True,
        ) as command:  # fmt: skip
            code, lines = command.finish()
    except CommandTimeoutError as error:
        raise DeploymentError(
            f"python-dependencies: not resolved within {LOCK_SECONDS:g} s"
        ) from error
    if code != 0:
        told = "\n".join(without_logins(line) for line in lines[-_TOLD_LINES:])
        raise DeploymentError(f"python-dependencies: pip could not resolve them:\n{told}")
    return _text(json.loads(report.read_bytes())["install"])


def locked(dependencies: Dependencies, text: str) -> tuple[Dependencies, Dependencies | None]:
    """What to install, in this order, so that exactly the locked packages are there.

    Args:
        dependencies: the set as it was written: where its packages are found, and what of it is
            the source's own.
        text: of :func:`lock`.
    """
    hashed, _, unhashed = text.partition(UNHASHED)
    places = [line for line in dependencies.lines if line.startswith("--")]
    options = ("--no-deps", *_kept_options(dependencies.options))
    sets = []
    for number, (part, packages) in enumerate(((hashed, ()), (unhashed, dependencies.packages))):
        lines = tuple(_lines(part))
        if lines or packages:
            digest = f"{dependencies.digest} {number} {text}"
            sets.append(Dependencies((*places, *lines), packages, options, digest, hashed=True))
    if not sets:
        return Dependencies((), (), (), f"{dependencies.digest} {text}"), None
    return sets[0], sets[1] if len(sets) > 1 else None


def _text(items: list[dict[str, Any]]) -> str:
    hashed: list[str] = []
    unhashed: list[str] = []
    for item in items:
        for line, has_hash in _line(item):
            (hashed if has_hash else unhashed).append(line)
    tail = [UNHASHED, *sorted(unhashed)] if unhashed else []
    head = sorted(hashed) or ["# nothing from an index"]
    return "".join(f"{line}\n" for line in [*head, *tail])


def _line(item: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """The line of one package of pip's report, and whether it has a hash."""
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    info = item["download_info"]
    url = info["url"]
    direct = item.get("is_direct", False)
    if direct and url.startswith("file:"):
        return  # of the source, which is pinned
    if direct and _LOGIN.search(url):
        raise ConfigurationError(
            f"python-dependencies: '{name}' has a login in its URL, which would be shown in the"
            " lock; take it from an index, or from a repository that needs none"
        )
    if "vcs_info" in info:
        vcs = info["vcs_info"]
        folder = f"#subdirectory={info['subdirectory']}" if "subdirectory" in info else ""
        yield f"{name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}{folder}", False
        return
    hashes = info.get("archive_info", {}).get("hashes", {})
    if "sha256" not in hashes:
        raise DeploymentError(f"python-dependencies: pip told no SHA-256 of '{name}' {version}")
    wanted = f"{name} @ {url}" if direct else f"{name}=={version}"
    yield f"{wanted} --hash=sha256:{hashes['sha256']}", True


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _kept_options(options: tuple[str, ...]) -> Iterator[str]:
    """Where packages are found and how they are built; what to install the lock says alone."""
    words = iter(options)
    for option in words:
        if option in _VALUED_OPTIONS:
            yield from (option, next(words))
        elif option in _SOURCE_OPTIONS:
            yield option
        elif option in ("-r", "-c"):
            next(words)
