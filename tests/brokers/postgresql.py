"""Real PostgreSQL servers on free ports with folders of their own; never the system's instance.

``postgresql_server`` is shared by a test run: use names of your own in it. ``own_postgresql``
belongs to one test, which may kill, stop and restart it; it writes everything to disk before it
answers.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.servers import free_port, require, wait_until_up

PACKAGE = "postgresql"


def find_programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; Debian has none of them in the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def require_postgresql() -> Path:
    """Where the programs are."""
    cure = "apt-get install postgresql (or brew install postgresql)"
    return require(PACKAGE, find_programs, cure)


def _unprivileged() -> str | None:
    """PostgreSQL refuses root: whom to run it as there."""
    return pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None


class PostgreSQLServer:
    """One server with one database, ``test``, that lets everybody on this machine in.

    Attributes:
        folder: where its files are; a restart finds them.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        """Make its files."""
        user = _unprivileged()
        if user is not None:
            shutil.chown(self.folder, user)
        command = [
            str(require_postgresql() / "initdb"), "-D", str(self.folder / "data"), "-A", "trust",
            "-U", "postgres", "-E", "UTF8", "--locale", "C", "--no-sync",
        ]  # fmt: skip
        done = subprocess.run(
            command, user=user, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        settings = {
            "port": self.port, "listen_addresses": "127.0.0.1", "max_connections": 200,
            "unix_socket_directories": self.folder,
        }  # fmt: skip
        command = [str(require_postgresql() / "postgres"), "-D", str(self.folder / "data")]
        for option in (*(f"{name}={value}" for name, value in settings.items()), *self.options):
            command += ["-c", option]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, user=_unprivileged()
            )  # fmt: skip
        self.wait()

    def wait(self, seconds: float = 30.0) -> None:
        """Return once it takes connections."""
        ready = [str(require_postgresql() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p"]
        command = [*ready, str(self.port)]
        wait_until_up(
            lambda: subprocess.run(command, check=False).returncode == 0,
            self.process,
            self.folder / "server.log",
            seconds,
        )

    def kill(self) -> None:
        """``kill -9`` of all of its processes."""
        children = self._signal(signal.SIGKILL)
        self._ended()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline, "its children live on"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it, with its connections; idempotent."""
        if self.process is not None:
            self.thaw()
            self.process.send_signal(signal.SIGINT)
            self._ended()

    def freeze(self) -> None:
        """It stops in its tracks, its sockets stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> list[int]:
        """To the server and its children, which are in sessions of their own; the children."""
        assert self.process is not None
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        children = [int(child) for child in found.stdout.split()]
        for pid in (self.process.pid, *children):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        return children

    def _ended(self) -> None:
        assert self.process is not None
        self.process.wait(20)
        self.process = None


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """The test run's server; it forgets in a power failure what a test never needs to know."""
    require_postgresql()
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        server = PostgreSQLServer(Path(folder), "fsync=off", "full_page_writes=off")
        server.create()
        server.start()
        yield server
        server.stop()


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQLServer]:
    """A server for one test; a restart finds what it answered before."""
    require_postgresql()
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        server = PostgreSQLServer(Path(folder))
        server.create()
        server.start()
        yield server
        server.stop()
