"""Installs a front end's packages; a set that was installed before is taken from a cache.

The cache holds, per deployment, ``node_modules`` of the last sets. Its files are hard links: a
project gets its own tree in a second or two, whatever its size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamadeploy.commands import Cancellation, CommandTimeoutError, start_command
from llamadeploy.exceptions import ConfigurationError, DeploymentError
from llamadeploy.ui.package_manager import PackageManager

INSTALL_SECONDS = 900.0
"""How long an install may take: a large project on a slow line."""

KEPT_SETS = 2
"""Of packages, per deployment: the present one and the one before."""

_INPUTS = (
    "package.json", "package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", ".npmrc",
    ".pnpmfile.cjs",
)  # fmt: skip
_OUTPUTS = ("node_modules", "package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml")
_OWN_SCRIPTS = ("preinstall", "install", "postinstall", "prepare")
_LOCAL_VERSION = re.compile(r"(file|link|workspace|portal):|\.{0,2}/")
_PACKAGE_NAME = re.compile(r"(@[a-z0-9~_.-]+/)?[a-z0-9~_.-]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Project:
    """A front end's folder (a copy that is ours to change) and what it is installed with.

    Attributes:
        package: its package.json.
        added: ``ts-dependencies``: npm package -> version.
        environ: the installer's whole environment.
    """

    folder: Path
    package: dict[str, Any]
    manager: PackageManager
    added: Mapping[str, str]
    environ: Mapping[str, str]


def read_package(folder: Path) -> dict[str, Any]:
    """The folder's package.json.

    Raises:
        ConfigurationError: it is not JSON, or has no script ``dev``.
    """
    try:
        package = json.loads((folder / "package.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"source: package.json cannot be read: {error}; write a JSON object"
        ) from error
    scripts = package.get("scripts") if isinstance(package, dict) else None
    if not isinstance(scripts, dict) or not isinstance(scripts.get("dev"), str):
        raise ConfigurationError(
            "source: package.json has no script 'dev': add one that serves the front end on the "
            'port $PORT, such as "scripts": {"dev": "vite --port $PORT"}'
        )
    return dict(package)


def install_packages(
    project: Project,
    cache: Path,
    *,
    cancellation: Cancellation,
    progress: Callable[[str], None],
    timeout: float = INSTALL_SECONDS,
) -> bool:
    """Install into the project's folder; return whether the cache had it all. Blocking.

    Args:
        cache: the folder of the cache; made where it is missing.
        progress: told each line that the installer writes, from another thread.

    Raises:
        ConfigurationError: a name or version of ``ts-dependencies`` is wrong.
        DeploymentError: the installer failed; the message has its last lines.
        CommandCancelledError: it was cancelled.
    """
    key = _key(project)
    _add(project)
    cached = key is not None and _restore(cache / key, project.folder)
    scripts = project.package.get("scripts") or {}
    if cached and not any(each in scripts for each in _OWN_SCRIPTS):
        return True
    _run(project, cancellation, progress, timeout)
    if key is not None and not cached:
        _keep(cache, key, project.folder)
    return cached


def _key(project: Project) -> str | None:
    """What the set of packages follows from; ``None`` where folders beside it matter too."""
    package = project.package
    groups = ("dependencies", "devDependencies", "optionalDependencies")
    versions = [*project.added.values()]
    for group in groups:
        found = package.get(group)
        versions += map(str, found.values()) if isinstance(found, dict) else ()
    workspace = "workspaces" in package or (project.folder / "pnpm-workspace.yaml").exists()
    if workspace or any(_LOCAL_VERSION.match(version) for version in versions):
        return None
    digest = hashlib.sha256()
    node = Path(project.manager.node).resolve()
    program = Path(project.manager.program).resolve()
    # A new Node.js may need other builds of native packages; its path or date tells.
    tools = [f"{each} {each.stat().st_mtime_ns}" for each in (node, program)]
    added = sorted(project.added.items())
    digest.update(json.dumps([1, project.manager.name, platform.machine(), tools, added]).encode())
    for name in _INPUTS:
        with contextlib.suppress(FileNotFoundError):
            content = (project.folder / name).read_bytes()
            digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def _add(project: Project) -> None:
    """Write ``ts-dependencies`` into package.json, over the versions it has."""
    if not project.added:
        return
    for name, version in project.added.items():
        if not _PACKAGE_NAME.fullmatch(name) or not version.strip():
            raise ConfigurationError(
                f"ts-dependencies: {name!r}: {version!r} is not a package and a version; "
                "write it as in package.json, such as '@scope/name': ^1.2.0"
            )
    for group in ("devDependencies", "optionalDependencies"):
        for name in project.added.keys() & (project.package.get(group) or {}).keys():
            del project.package[group][name]
    present = project.package.get("dependencies") or {}
    project.package["dependencies"] = {**present, **project.added}
    text = json.dumps(project.package, indent=2, ensure_ascii=False)
    (project.folder / "package.json").write_text(text + "\n", encoding="utf-8")


def _run(
    project: Project,
    cancellation: Cancellation,
    progress: Callable[[str], None],
    timeout: float,
) -> None:
    name = f"{project.manager.name} install"
    progress(name)
    try:
        with start_command(
            project.manager.install,
            env=project.environ,
            cwd=project.folder,
            timeout=timeout,
            cancellation=cancellation,
            on_line=lambda line: progress(f"{name}: {line}"),
            merge=True,
        ) as command:
            code, lines = command.finish()
    except CommandTimeoutError:
        raise DeploymentError(
            f"'{name}' did not end within {timeout:g} s: see that the package registry can be "
            "reached from here"
        ) from None
    except OSError as error:
        raise DeploymentError(f"'{name}' cannot be started: {error}") from error
    if code != 0:
        output = "\n".join(lines)
        raise DeploymentError(f"'{name}' ended with exit code {code}:\n{output}")


# -- the cache -------------------------------------------------------------------------------------


def _restore(entry: Path, folder: Path) -> bool:
    if not entry.is_dir():
        return False
    for name in _OUTPUTS:
        _link(entry / name, folder / name)
    os.utime(entry)  # the cache forgets what was not used for longest
    return True


def _keep(cache: Path, key: str, folder: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    for stale in cache.glob("*.new"):
        shutil.rmtree(stale, ignore_errors=True)
    new = cache / f"{key}.new"
    new.mkdir(mode=0o700)
    for name in _OUTPUTS:
        _link(folder / name, new / name)
    new.replace(cache / key)
    os.utime(cache / key, (time.time(), time.time()))
    by_use = sorted(cache.iterdir(), key=lambda each: each.stat().st_mtime_ns, reverse=True)
    for old in by_use[KEPT_SETS:]:
        shutil.rmtree(old, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same as ``source``, which may be a file, a folder or nothing."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, copy_function=_link_or_copy)
    elif source.is_file():
        # The package manager rewrites lock files in place: they must not be shared.
        shutil.copy2(source, target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target, follow_symlinks=False)
