"""The folder that holds everything the local backend keeps; nothing is written anywhere else.

::

    <data dir>/.environments/                 Python environments of services, see
                                              llamadeploy.environments.cache
    <data dir>/.lock                          the pid of the server that uses it
    <data dir>/<deployment>/deployment.json   the record: written last, so what has none is no
                                              deployment
    <data dir>/<deployment>/.llamadeploy      marks the folder as ours; no other is touched
    <data dir>/<deployment>/signing-keys      mode 0600, made once
    <data dir>/<deployment>/state.db          the default state store
    <data dir>/<deployment>/workers           ids of workers that were started since the last start
    <data dir>/<deployment>/work/<generation>/<service>/...   the code that runs
    <data dir>/<deployment>/ui-packages/...   what front ends installed, for the next deploy

All of it is readable for its owner alone: records hold the values of Secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import Self

import msgspec

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.signing import KeyRing
from llamadeploy.sources.git import SCRATCH

MARK = ".llamadeploy"
ENVIRONMENTS = ".environments"
"""No deployment's name begins with a dot."""


class ServiceRecord(msgspec.Struct, kw_only=True):
    """A prepared service.

    Attributes:
        root: its code's folder, relative to the generation's.
        variables: its own environment.
        origin: where the code came from, for status.
        environment: key of the Python environment it runs in; empty for the server's own.
    """

    root: str
    variables: dict[str, str]
    origin: dict[str, str] = {}
    environment: str = ""

    def __repr__(self) -> str:
        return f"ServiceRecord(root={self.root!r})"  # variables may be secrets


class ServiceChange(msgspec.Struct, kw_only=True, frozen=True):
    """What was changed at run time about a service, until the next reload."""

    replicas: int
    stopped: bool = False


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What brings a deployment back after a restart.

    Attributes:
        text: the deployment file.
        base_path: absolute path of the folder its relative paths start from.
        generation: which folder of ``work`` runs.
        services: the prepared services of that generation.
        ui: its prepared user interface.
        control_plane_port: the port it had, taken again where it is free.
        queue_port: likewise.
        changes: services that were stopped or scaled, by name.
    """

    text: str
    base_path: str
    file: str | None = None
    generation: int = 1
    services: dict[str, ServiceRecord] = {}
    ui: ServiceRecord | None = None
    control_plane_port: int = 0
    queue_port: int = 0
    changes: dict[str, ServiceChange] = {}
    version: int = 1

    def __repr__(self) -> str:
        return f"Record(base_path={self.base_path!r}, generation={self.generation})"


class DataDirectory:
    """The whole folder, locked while this object is open. Blocking: called in threads."""

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self._lock = lock

    @classmethod
    def open(cls, root: Path) -> Self:
        """Make the folder where it is missing, and lock it.

        Raises:
            ConfigurationError: it cannot be used, or another server uses it.
        """
        root = root.expanduser().absolute()
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"data directory '{root}' cannot be used: {error.strerror}; "
                "choose another with --data-dir"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise ConfigurationError(
                f"data directory '{root}' is in use by the server with pid {holder}: "
                "stop that one, or choose another directory with --data-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        for scratch in root.glob(f"*/work/*/*/{SCRATCH}"):
            # Of a server that was killed while it fetched; it may hold a private key.
            if _is_ours(root / scratch.relative_to(root).parts[0]):
                shutil.rmtree(scratch, ignore_errors=True)
        return cls(root, lock)

    def close(self) -> None:
        """Let another server use the folder. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def environments(self) -> Path:
        """Holds the Python environments."""
        return self.root / ENVIRONMENTS

    def folder(self, name: str) -> DeploymentFolder:
        """The folder of a deployment, which need not exist."""
        return DeploymentFolder(self.root / name)

    def recorded(self) -> list[str]:
        """Deployments with a record, oldest first."""
        records = [path for path in self.root.glob("*/deployment.json") if _is_ours(path.parent)]
        records.sort(key=lambda path: (path.parent / MARK).stat().st_mtime_ns)
        return [path.parent.name for path in records]


class DeploymentFolder:
    """One deployment's folder. Blocking: called in threads."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of(cls, data_dir: Path, name: str) -> Self:
        """The folder of a deployment that exists.

        Raises:
            ConfigurationError: there is none of that name.
        """
        folder = cls(data_dir / name)
        if Path(name).name != name or not _is_ours(folder.root):
            raise ConfigurationError(f"there is no deployment '{name}' in '{data_dir}'")
        return folder

    @property
    def state_uri(self) -> str:
        """URI of the default state store."""
        return f"sqlite:///{self.root / 'state.db'}"

    @property
    def work(self) -> Path:
        """Holds the generations."""
        return self.root / "work"

    @property
    def environments(self) -> Path:
        """Python environments, which deployments share."""
        return self.root.parent / ENVIRONMENTS

    @property
    def logs(self) -> Path:
        """Holds what workers write."""
        return self.root / "logs"

    @property
    def ui_packages(self) -> Path:
        """The cache of front ends' packages."""
        return self.root / "ui-packages"

    def create(self) -> bool:
        """Make the folder; return whether it was new.

        Raises:
            ConfigurationError: something else is there already.
        """
        try:
            if _is_ours(self.root):
                return False
            if self.root.is_symlink() or (self.root.exists() and any(self.root.iterdir())):
                raise ConfigurationError(
                    f"the folder '{self.root}' is there and is not a deployment's: rename the "
                    "deployment, or choose another data directory with --data-dir"
                )
            self.root.mkdir(exist_ok=True, mode=0o700)
            (self.root / MARK).touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the folder '{self.root}' cannot be made: {error.strerror}; "
                "choose another data directory with --data-dir"
            ) from error
        return True

    def remove(self) -> None:
        """Remove the folder if it is ours, the record first: what has none is never restored."""
        if _is_ours(self.root):
            (self.root / "deployment.json").unlink(missing_ok=True)
            shutil.rmtree(self.root)

    def new_generation(self) -> int:
        """A number above every generation that is there; its folder is made, empty."""
        self.work.mkdir(exist_ok=True, mode=0o700)
        taken = [int(path.name) for path in self.work.iterdir() if path.name.isdigit()]
        generation = max(taken, default=0) + 1
        self.generation(generation).mkdir(mode=0o700)
        return generation

    def generation(self, generation: int) -> Path:
        """The folder of one generation."""
        return self.work / str(generation)

    def remove_generation(self, generation: int) -> None:
        """Forget the code of one generation. Idempotent."""
        shutil.rmtree(self.generation(generation), ignore_errors=True)

    def keep_only(self, generation: int) -> None:
        """Remove what earlier or failed deploys left behind."""
        for path in self.work.iterdir():
            if path.name.isdigit() and path.name != str(generation):
                shutil.rmtree(path, ignore_errors=True)

    def signing_keys(self) -> KeyRing:
        """The deployment's keys; made at the first call.

        Raises:
            ConfigurationError: the file is damaged.
        """
        path = self.root / "signing-keys"
        with contextlib.suppress(FileNotFoundError):
            return KeyRing.parse(path.read_text())
        keys = KeyRing.generate()
        _write(path, keys.dump().encode())
        return keys

    def rotate_signing_keys(self) -> KeyRing:
        """Put a new key in front, which signs from the next start on; the others still verify.

        Raises:
            ConfigurationError: the file is damaged.
        """
        keys = self.signing_keys().rotated()
        _write(self.root / "signing-keys", keys.dump().replace(",", "\n").encode() + b"\n")
        return keys

    def note_worker(self, worker_id: str) -> None:
        """Remember a worker before it is started, for :meth:`take_workers`."""
        with (self.root / "workers").open("a") as file:
            file.write(f"{worker_id}\n")

    def take_workers(self) -> list[str]:
        """Workers of earlier servers, all of which are dead or draining; forgets them."""
        path = self.root / "workers"
        with contextlib.suppress(FileNotFoundError):
            found = path.read_text().split()
            path.unlink()
            return found
        return []

    def write_record(self, record: Record) -> None:
        """From here on the deployment is restored at every start."""
        _write(self.root / "deployment.json", msgspec.json.encode(record))

    def last_ports(self) -> tuple[int, int]:
        """Ports of control plane and queue when it last ran; 0 where it never did."""
        with contextlib.suppress(ConfigurationError):
            record = self.read_record()
            return record.control_plane_port, record.queue_port
        return 0, 0

    def read_record(self) -> Record:
        """The record.

        Raises:
            ConfigurationError: it cannot be read.
        """
        path = self.root / "deployment.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(
                f"the record '{path}' cannot be read ({error}): create the deployment again"
            ) from error


def _is_ours(folder: Path) -> bool:
    return not folder.is_symlink() and (folder / MARK).is_file()


def _write(path: Path, data: bytes) -> None:
    """Replace a file so that a crash leaves the old or the new content, never a part."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
