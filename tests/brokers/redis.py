"""Real Redis servers on free ports with folders of their own; never the system's instance.

``redis_server`` is shared by a test run: use names of your own in it. ``own_redis`` belongs to one
test, which may kill, stop and restart it; it writes everything to disk before it answers.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.brokers.servers import end_with_us, free_port, make_certificate, require, wait_until_up

PACKAGE = "redis-server"


def require_redis() -> str:
    """The server's program."""
    cure = f"apt-get install {PACKAGE} (or brew install redis); version 7"
    return require(PACKAGE, lambda: shutil.which(PACKAGE), cure)


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

    def start(self, configuration: str | None = None) -> None:
        """Start it (again) and wait until it answers."""
        program = require_redis()
        command = [program, configuration, *self.options] if configuration else [
            program, "--port", str(self.port), "--bind", "127.0.0.1",
            "--unixsocket", str(self.folder / "redis.sock"), "--dir", str(self.folder),
            "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no", *self.options,
        ]  # fmt: skip
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_us)
        self.wait()

    def add_tls(self) -> None:
        """Listen with TLS as well from the next start on."""
        key, certificate = make_certificate(self.folder)
        self.tls_port = free_port()
        self.options += (
            "--tls-port", str(self.tls_port), "--tls-cert-file", str(certificate),
            "--tls-key-file", str(key), "--tls-auth-clients", "no",
        )  # fmt: skip

    def command(self, *words: str) -> str:
        """The answer to a command, as text."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(w)}\r\n{w}\r\n" for w in words)
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(request.encode())
            answer = connection.recv(65536).decode()
        assert not answer.startswith("-"), answer
        return answer

    def wait_for(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Return once the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()[-3000:]
            time.sleep(0.02)

    def wait(self, seconds: float = 20.0) -> None:
        """Return once it answers."""
        wait_until_up(self._answers, self.process, self.folder / "redis.log", seconds)

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


@pytest.fixture
def redis_cluster() -> Iterator[list[RedisServer]]:
    """Two nodes that share the slots of a Cluster."""
    require_redis()
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, contextlib.ExitStack() as stack:
        nodes = []
        for number, slots in enumerate((("0", "8191"), ("8192", "16383"))):
            (Path(folder) / str(number)).mkdir()
            bus = str(free_port())  # by default 10,000 above its port, which may be no port
            node = RedisServer(
                Path(folder) / str(number), "--cluster-enabled", "yes", "--cluster-port", bus
            )
            node.start()
            stack.callback(node.stop)
            node.command("CLUSTER", "ADDSLOTSRANGE", *slots)
            nodes.append(node)
        nodes[0].command("CLUSTER", "MEET", "127.0.0.1", str(nodes[1].port), bus)
        for node in nodes:
            node.wait_for(lambda node=node: "cluster_state:ok" in node.command("CLUSTER", "INFO"))
        yield nodes


class WatchedRedis:
    """A master with a replica, and a Sentinel (``uri``) that puts the one in the other's place."""

    name = "watched"

    def __init__(self, folder: Path) -> None:
        for name in ("master", "replica", "sentinel"):
            (folder / name).mkdir()
        self.master = RedisServer(folder / "master")
        self.replica = RedisServer(
            folder / "replica", "--replicaof", f"127.0.0.1 {self.master.port}"
        )
        self.sentinel = RedisServer(folder / "sentinel", "--sentinel")

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.sentinel.port}/0?sentinel={self.name}"

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        self.replica.wait_for(
            lambda: "master_link_status:up" in self.replica.command("INFO", "replication")
        )
        configuration = self.sentinel.folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.sentinel.port}\nbind 127.0.0.1\ndir {self.sentinel.folder}\n"
            f"sentinel monitor {self.name} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {self.name} 500\n"
            f"sentinel failover-timeout {self.name} 2000\n"
        )
        self.sentinel.start(str(configuration))
        self.sentinel.wait_for(
            lambda: "slaves=1" in self.sentinel.command("INFO", "sentinel"), seconds=30
        )

    def stop(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.stop()


@pytest.fixture
def watched_redis() -> Iterator[WatchedRedis]:
    """One for one test."""
    require_redis()
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        watched = WatchedRedis(Path(folder))
        try:
            watched.start()
            yield watched
        finally:
            watched.stop()
