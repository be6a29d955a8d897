"""Real Redis servers on free ports with folders of their own; never the system's instance.

``redis_server`` is shared by a test run: use names of your own in it. ``own_redis`` belongs to one
test, which may kill, stop and restart it; it writes everything to disk before it answers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "redis-server"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_redis() -> str:
    """The server's program; installed where we may, else the test is skipped (in CI: fails)."""
    found = shutil.which(PACKAGE)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _install()
        found = shutil.which(PACKAGE)
    if found is not None:
        return found
    message = f"{PACKAGE} 7 is not installed: apt-get install {PACKAGE} (or brew install redis)"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def _install() -> None:
    lock = Path(tempfile.gettempdir()) / "llamadeploy-tests-apt.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if shutil.which(PACKAGE):
            return
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run = ["apt-get", "install", "-y", "--no-install-recommends", PACKAGE]
        for command in (["apt-get", "update"], run):
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        # The package starts and enables a system instance that nobody here wants.
        for command in (["service", PACKAGE, "stop"], ["systemctl", "disable", PACKAGE]):
            if shutil.which(command[0]):
                subprocess.run(command, capture_output=True, check=False)


class RedisServer:
    """One server process.

    Attributes:
        folder: where its files are; a restart finds them.
        uri: where it listens.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.tls_port: int | None = None
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def tls_uri(self) -> str:
        """Needs ``tls_port``."""
        return f"rediss://127.0.0.1:{self.tls_port}/0?ssl_ca_certs={self.folder}/certificate.pem"

    @property
    def socket_uri(self) -> str:
        return f"unix://{self.folder}/redis.sock?db=0"

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        command = [
            require_redis(), "--port", str(self.port), "--bind", "127.0.0.1",
            "--unixsocket", str(self.folder / "redis.sock"), "--dir", str(self.folder),
            "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no", *self.options,
        ]  # fmt: skip
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait()

    def add_tls(self) -> None:
        """Listen with TLS as well from the next start on."""
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed: it makes the server's certificate")
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
            "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        self.tls_port = free_port()
        self.options += (
            "--tls-port", str(self.tls_port), "--tls-cert-file", str(certificate),
            "--tls-key-file", str(key), "--tls-auth-clients", "no",
        )  # fmt: skip

    def wait(self, seconds: float = 20.0) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + seconds
        while not self._answers():
            process = self.process
            if process is None or process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "redis.log").read_text()[-3000:])
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it; idempotent."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """It stops in its tracks, its sockets stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The test run's server."""
    require_redis()
    # A short path: a socket's has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), "--appendonly", "no")
        server.add_tls()
        server.start()
        yield server
        server.stop()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for one test; a restart finds what it answered before."""
    require_redis()
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), "--appendonly", "yes", "--appendfsync", "always")
        server.start()
        yield server
        server.stop()


@pytest.fixture
def unique() -> str:
    """A name that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"
