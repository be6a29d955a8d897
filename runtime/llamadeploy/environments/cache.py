"""The environments that were built, and the building of new ones.

::

    <root>/<key>                  a link to the newest complete one, put there last
    <root>/<key>.<8 hex digits>/  an environment; complete when it has complete.json
    <root>/<key>.lock             held while one is built
    <root>/cache/                 what uv or pip keeps of downloads

A path inside of an environment never changes (scripts in it name their Python), so it is not moved
when it is complete: the link to it appears, at once. What has no link is never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sysconfig
import time
import venv
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamadeploy.commands import Cancellation, CommandTimeoutError, start_command
from llamadeploy.environments.dependencies import SKIPPED, Dependencies
from llamadeploy.environments.installer import Installer, find_installer, without_logins
from llamadeploy.environments.runtime import runtime_constraints, runtime_id, write_pth
from llamadeploy.exceptions import DeploymentError

BUILD_SECONDS = 1800.0
"""Time limit of one build: large wheels over a slow line, or a package that is compiled."""

TRIAL_SECONDS = 120.0

_TOLD_LINES = 15
_COMPLETE = "complete.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """A complete environment.

    Attributes:
        key: identifies its set of dependencies, and the runtime it was built for.
        folder: where it is.
    """

    key: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def activated(self, environ: Mapping[str, str]) -> dict[str, str]:
        """``environ`` for a process in here: scripts of its packages are found by their names."""
        path = os.pathsep.join((str(self.folder / "bin"), environ.get("PATH", os.defpath)))
        changed = {**environ, "VIRTUAL_ENV": str(self.folder), "PATH": path}
        changed.pop("PYTHONHOME", None)  # it would win over the environment's own
        return changed


class EnvironmentCache:
    """All environments below ``root``. Blocking: called in threads."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Environment | None:
        """The complete environment of that key, if it still fits this runtime."""
        link = self.root / key
        try:
            folder = link.resolve(strict=True)
            mark = json.loads((folder / _COMPLETE).read_bytes())
        except (OSError, ValueError):
            return None
        environment = Environment(key, folder)
        if mark.get("runtime") != runtime_id() or not os.access(environment.python, os.X_OK):
            return None
        with contextlib.suppress(OSError):
            os.utime(folder / _COMPLETE)  # so that prune() knows it is used
        return environment

    def prepare(
        self,
        dependencies: Dependencies,
        cancellation: Cancellation,
        progress: Callable[[str], None],
        after: Dependencies | None = None,
    ) -> Environment:
        """The environment with ``dependencies``; built where there is none, else nothing is run.

        Two callers with the same set build it once.

        Args:
            after: installed when they are: what cannot be in one run with them.

        Raises:
            DeploymentError: it cannot be built; the message has the installer's last lines.
            ConfigurationError: there is no installer.
            CommandCancelledError: ``cancellation`` was cancelled.
        """
        key = environment_key(dependencies, after)
        if found := self.find(key):
            return found
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked(key, cancellation, progress):
                return self.find(key) or self._build(
                    key, dependencies, cancellation, progress, after
                )
        except OSError as error:
            raise DeploymentError(
                f"python-dependencies: the environment cannot be made: {error}; "
                "free some disk space, and make the data directory writable"
            ) from error

    def prune(self, used: Collection[str], *, unused_seconds: float) -> None:
        """Remove what was not used for so long, and what was never completed; ``used`` stays."""
        if not self.root.is_dir():
            return
        oldest = time.time() - unused_seconds
        targets = {path.resolve(): path for path in self.root.iterdir() if path.is_symlink()}
        for folder in [path for path in self.root.iterdir() if _is_environment(path)]:
            link = targets.get(folder.resolve())
            if link is not None and (link.name in used or _last_used(folder) >= oldest):
                continue
            with self._try_lock(folder.name.partition(".")[0]) as ours:
                if ours:
                    if link is not None:
                        link.unlink(missing_ok=True)
                    shutil.rmtree(folder, ignore_errors=True)

    # -- building ------------------------------------------------------------------------------

    def _build(
        self,
        key: str,
        dependencies: Dependencies,
        cancellation: Cancellation,
        progress: Callable[[str], None],
        after: Dependencies | None,
    ) -> Environment:
        for left in self.root.glob(f"{key}.*"):
            if _is_environment(left) and left.resolve() != (self.root / key).resolve():
                shutil.rmtree(left, ignore_errors=True)
        installer = find_installer()
        folder = self.root / f"{key}.{secrets.token_hex(4)}"
        try:
            build = _Build(Environment(key, folder), installer, self.root / "cache",
                           cancellation, progress)  # fmt: skip
            build.run(dependencies, after)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        mark = {"runtime": runtime_id(), "installer": installer.name, "built_at": time.time()}
        (folder / _COMPLETE).write_text(json.dumps(mark))
        link = self.root / f"{key}.link"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(self.root / key)
        return Environment(key, folder.resolve())

    @contextlib.contextmanager
    def _locked(
        self, key: str, cancellation: Cancellation, progress: Callable[[str], None]
    ) -> Iterator[None]:
        told = False
        while True:
            with self._try_lock(key) as ours:
                if ours:
                    yield
                    return
            if not told:
                progress("waiting for the same packages, which another service is installing")
                told = True
            cancellation.wait(0.1)

    @contextlib.contextmanager
    def _try_lock(self, key: str) -> Iterator[bool]:
        descriptor = os.open(self.root / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Build:
    """One build of an environment."""

    environment: Environment
    installer: Installer
    cache: Path
    cancellation: Cancellation
    progress: Callable[[str], None]

    def run(self, dependencies: Dependencies, after: Dependencies | None = None) -> None:
        """Make the environment, install into it, and see whether a worker would start in it."""
        folder = self.environment.folder
        venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
        scratch = folder / "build"
        for wanted in (dependencies, after):
            if wanted and (wanted.lines or wanted.packages or wanted.options):
                scratch.mkdir(mode=0o700)
                self._install(wanted, scratch)
                shutil.rmtree(scratch)
        write_pth(_site_packages(folder))
        self._try_out()

    def _install(self, dependencies: Dependencies, scratch: Path) -> None:
        requirements, constraints = scratch / "requirements.txt", None
        lines = [*dependencies.lines, *_local_packages(dependencies, scratch)]
        _write_private(requirements, lines)
        if not dependencies.hashed:  # a constraint without a hash is an error there
            constraints = scratch / "constraints.txt"
            _write_private(constraints, runtime_constraints())
        argv = self.installer.arguments(
            self.environment.python, requirements, constraints, dependencies
        )
        self.progress(f"installing python-dependencies with {self.installer.name}")
        code, lines_ = self._run(
            argv, self.installer.environ(os.environ, self.cache, dependencies), BUILD_SECONDS
        )
        if code != 0:
            told = "\n".join(lines_[-_TOLD_LINES:]) or f"exit code {code}"
            raise DeploymentError(
                f"python-dependencies: {self.installer.name} could not install them:\n{told}"
            )

    def _try_out(self) -> None:
        """A package that breaks the worker is found now, and not when a task is there."""
        names = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")
        environ = {name: os.environ[name] for name in names if name in os.environ}
        command = [str(self.environment.python), "-P", "-c", "import llamadeploy.worker.process"]
        code, lines = self._run(command, environ, TRIAL_SECONDS)
        if code != 0:
            told = "\n".join(lines[-_TOLD_LINES:]) or f"exit code {code}"
            raise DeploymentError(
                f"python-dependencies: a worker cannot run with these packages; "
                f"allow other versions of them:\n{told}"
            )

    def _run(
        self, argv: list[str], environ: dict[str, str], seconds: float
    ) -> tuple[int, list[str]]:
        def tell(line: str) -> None:
            self.progress(f"{Path(argv[0]).name}: {without_logins(line)}")

        try:
            with start_command(
                argv, env=environ, cwd=self.environment.folder, timeout=seconds,
                cancellation=self.cancellation, on_line=tell, merge=True,
            ) as command:  # fmt: skip
                code, lines = command.finish()
        except CommandTimeoutError as error:
            raise DeploymentError(
                f"python-dependencies: not done within {seconds:g} s; look at the server's log"
            ) from error
        return code, [without_logins(line) for line in lines]


def environment_key(dependencies: Dependencies, after: Dependencies | None = None) -> str:
    """Names the environment of a set, for this runtime: 32 hexadecimal digits."""
    text = f"{dependencies.digest}\0{runtime_id()}" + (f"\0{after.digest}" if after else "")
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _local_packages(dependencies: Dependencies, scratch: Path) -> Iterator[str]:
    """Lines for packages of this machine; a folder is copied: its build writes into it."""
    for number, package in enumerate(dependencies.packages):
        path = package.path
        if path.is_dir():
            copy = scratch / str(number) / (path.name or "package")
            shutil.copytree(path, copy, symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
            path = copy
        yield f"{path}{package.extras}"


def _site_packages(folder: Path) -> Path:
    variables = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", vars=variables))


def _write_private(path: Path, lines: list[str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f"{line}\n" for line in lines)


def _is_environment(path: Path) -> bool:
    """Whether it is one of ours, complete or not; links, locks and the cache are not."""
    return "." in path.name and path.is_dir() and not path.is_symlink()


def _last_used(folder: Path) -> float:
    try:
        return (folder / _COMPLETE).stat().st_mtime
    except OSError:
        return 0.0
