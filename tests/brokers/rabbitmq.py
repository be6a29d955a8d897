"""Real RabbitMQ servers on free ports with folders of their own; never the system's instance.

``rabbitmq_server`` is shared by a test run; ``rabbitmq_vhost`` gives each test a virtual host of
its own in it. ``own_rabbitmq`` is shared by the tests of a module that kill, stop and restart it.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.servers import free_port, make_certificate, require, wait_until_up

PACKAGE = "rabbitmq-server"


def find_program() -> str | None:
    """The server's own script: Debian's in the path only runs as the package's user."""
    if shutil.which("epmd") is None:
        return None
    debian = Path("/usr/lib/rabbitmq/bin") / PACKAGE
    return str(debian) if debian.exists() else shutil.which(PACKAGE)


def require_rabbitmq() -> str:
    """The server's program."""
    return require(PACKAGE, find_program, f"apt-get install {PACKAGE} (or brew install rabbitmq)")


def _user() -> str | None:
    """Whom to run it as where this is root."""
    return pwd.getpwnam("rabbitmq").pw_name if os.geteuid() == 0 else None


class RabbitMQServer:
    """One server, with the management plugin for what AMQP cannot ask.

    Attributes:
        folder: where its files are; a restart finds them.
        settings: lines of ``rabbitmq.conf``; read at each start.
        advanced: terms of ``advanced.config``.
    """

    def __init__(self, folder: Path, advanced: str = "[]", **settings: str) -> None:
        self.folder = folder
        self.port, self.management_port, self.tls_port = free_port(), free_port(), free_port()
        self.settings = settings
        self.advanced = advanced
        self.process: subprocess.Popen[bytes] | None = None
        self._epmd_port, self._distribution_port = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        folder.chmod(0o755)
        if _user() is not None:
            shutil.chown(folder, _user())

    def url(self, vhost: str = "%2F", login: str = "guest:guest") -> str:
        return f"amqp://{login}@127.0.0.1:{self.port}/{vhost}"

    def tls_url(self, vhost: str = "%2F") -> str:
        """Needs ``add_tls``."""
        certificate = self.folder / "certificate.pem"
        return f"amqps://guest:guest@127.0.0.1:{self.tls_port}/{vhost}?cafile={certificate}"

    def add_tls(self) -> None:
        """Listen with TLS as well from the next start on."""
        key, certificate = make_certificate(self.folder)
        self.settings |= {
            "listeners.ssl.default": f"127.0.0.1:{self.tls_port}",
            "ssl_options.cacertfile": str(certificate),
            "ssl_options.certfile": str(certificate),
            "ssl_options.keyfile": str(key),
        }

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        program = require_rabbitmq()
        self._start_epmd()
        lines = {
            "listeners.tcp.default": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self.management_port),
            "vm_memory_high_watermark.absolute": "1GB",
            "disk_free_limit.absolute": "1MB",
            "log.console": "true",
            "log.file": "false",
            **self.settings,
        }
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "advanced.config").write_text(f"{self.advanced}.\n")
        (self.folder / "plugins").write_text("[rabbitmq_management].\n")
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program], stdout=log, stderr=log, cwd=self.folder, user=_user(),
                env=self._environ(), start_new_session=True,
            )  # fmt: skip
        self.wait()

    def _environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            # One processor is enough, and idle schedulers do not spin.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def _start_epmd(self) -> None:
        """Erlang's port mapper: ours, or the server would leave one behind."""
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def wait(self, seconds: float = 60.0) -> None:
        """Return once it takes AMQP and management requests."""
        wait_until_up(self._answers, self.process, self.folder / "server.log", seconds)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                pass
            self.management("GET", "/api/overview")
        except (OSError, AssertionError, http.client.HTTPException):
            return False
        return True

    def management(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the management API; ``None`` where it answers nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=10)
        login = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        assert response.status < 300, (response.status, text)
        return json.loads(text) if text else None

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order; idempotent."""
        if self.process is not None:
            self.thaw()
            self._end(signal.SIGTERM)

    def close(self) -> None:
        """End it and what belongs to it."""
        if self.process is not None:
            self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def freeze(self) -> None:
        """It stops in its tracks, its sockets stay open."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)
        self.process.wait(60)
        self.process = None
        self._wait_until_gone()

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except ConnectionRefusedError:
                return
            time.sleep(0.02)
        raise AssertionError("it still listens")


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQServer]:
    """The test run's server."""
    require_rabbitmq()
    with tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True) as folder:
        server = RabbitMQServer(Path(folder))
        server.add_tls()
        try:
            server.start()
            yield server
        finally:
            server.close()


@pytest.fixture
def rabbitmq_vhost(rabbitmq_server: RabbitMQServer, unique: str) -> Iterator[str]:
    """A virtual host of the test's own."""
    path = f"/api/vhosts/{unique}"
    rabbitmq_server.management("PUT", path, {})
    yield unique
    rabbitmq_server.management("DELETE", path)


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQServer]:
    """A server for one module; a restart finds what it confirmed before. It waits two seconds for
    an acknowledgement, where others wait for half an hour."""
    require_rabbitmq()
    advanced = "[{rabbit, [{consumer_timeout, 2000}, {channel_tick_interval, 500}]}]"
    with tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True) as folder:
        server = RabbitMQServer(Path(folder), advanced)
        try:
            server.start()
            yield server
        finally:
            server.close()
