"""The command, environment and configuration of managed servers, run for real.

Only what cannot be had here is replaced: the ports, and the folders that are volumes in a pod.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

UID = 65532
PASSWORD = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
RABBITMQ = Path("/usr/lib/rabbitmq/bin")
CLEAN = {"PATH": f"{RABBITMQ}:{os.environ['PATH']}", "LANG": "C.UTF-8"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """The container of a managed server as a process on this machine."""

    def __init__(self, found: Any, folder: Path, replaced: dict[str, str]) -> None:
        pod = found.child("StatefulSet", "app-queue")["spec"]["template"]["spec"]
        self.container = pod["containers"][0]
        self.folder = folder
        self.volumes = {
            each["mountPath"]: str(folder / each["name"]) for each in self.container["volumeMounts"]
        }
        self.replaced = replaced
        self.environ = dict(CLEAN)
        for item in self.container["env"]:
            self.environ[item["name"]] = self.local(item.get("value", PASSWORD))
        for local in self.volumes.values():
            Path(local).mkdir()
            self._give(Path(local))
        config = found.child("ConfigMap", "app-config")["data"]
        for name, text in config.items():
            file = Path(self.volumes["/etc/llamadeploy/server"], name)
            file.write_text(self.local(text))
            self._give(file)
        self._give(folder)

    def local(self, text: str) -> str:
        """``text`` with this machine's ports and folders."""
        known = {**self.volumes, **self.replaced}
        pattern = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
        return re.sub(pattern, lambda match: known[match[0]], text)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        log = (self.folder / "log").open("wb")
        self.process = process = subprocess.Popen(
            [self.local(word) for word in self.container["command"]],
            env=self.environ, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            **_as_user(),
        )  # fmt: skip
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                log.close()

    def probe(self) -> bool:
        """Whether the readiness probe's command succeeds."""
        command = [self.local(word) for word in self.container["readinessProbe"]["exec"]["command"]]
        done = subprocess.run(command, env=self.environ, capture_output=True, **_as_user())
        return done.returncode == 0

    def wait(self, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not check():
            log = (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline and self.process.poll() is None, log
            time.sleep(0.1)

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, UID, UID)


def _as_user() -> dict[str, Any]:
    return {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Reachable for another user, unlike ``tmp_path``."""
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="llamadeploy-managed-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_redis(case: Callable[..., Any], folder: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    import redis

    port = free_port()
    found = case({"messageQueue": {"type": "redis", "managed": {}}})
    server = Server(found, folder, {"6379": str(port)})
    with server.running():
        server.wait(server.probe)
        client = redis.Redis(port=port, password=PASSWORD)
        settings = client.config_get("append*", "maxmemory*", "save")
        assert settings["appendonly"] == "yes" and settings["appendfsync"] == "always"
        assert settings["maxmemory-policy"] == "noeviction" and settings["save"] == ""
        assert settings["maxmemory"] == str(768 * 1024 * 1024)
        client.set("kept", "1")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        assert (folder / "tmp" / "auth.conf").stat().st_mode & 0o077 == 0
        command = (Path(f"/proc/{client.info()['process_id']}") / "cmdline").read_bytes()
        assert PASSWORD.encode() not in command
        client.close()
    with server.running():
        server.wait(server.probe)
        client = redis.Redis(port=port, password=PASSWORD)
        assert client.get("kept") == b"1"
        client.close()
    assert stat.S_ISDIR((folder / "data").stat().st_mode)


@pytest.mark.slow
def test_rabbitmq(case: Callable[..., Any], folder: Path) -> None:
    if not RABBITMQ.is_dir():
        pytest.skip("RabbitMQ is not installed")
    import aio_pika

    port = free_port()
    replaced = {"5672": str(port), "15692": str(free_port())}
    server = Server(case({"messageQueue": {"type": "rabbitmq", "managed": {}}}), folder, replaced)
    epmd_port = str(free_port())
    server.environ |= {"ERL_EPMD_PORT": epmd_port, "RABBITMQ_DIST_PORT": str(free_port())}
    (folder / "cookie" / "cookie").write_text("A" * 43)
    (folder / "cookie" / "cookie").chmod(0o644)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    async def use(write: bool) -> bytes | None:
        url = f"amqp://llamadeploy:{PASSWORD}@127.0.0.1:{port}/"
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            arguments = {"x-queue-type": "quorum"}
            queue = await channel.declare_queue("q", durable=True, arguments=arguments)
            if write:
                await channel.default_exchange.publish(
                    aio_pika.Message(b"kept", delivery_mode=2), "q"
                )
                return None
            message = await queue.get(timeout=30, fail=False)
            return message.body if message else None

    try:
        with server.running():
            server.wait(answers)
            asyncio.run(use(write=True))
            cookie = folder / "home" / ".erlang.cookie"
            assert cookie.stat().st_mode & 0o777 in (0o600, 0o400)
            assert cookie.read_text() == "A" * 43
            log = (folder / "log").read_text()
            assert PASSWORD not in log and str(folder / "data") in log
        with server.running():
            server.wait(answers)
            assert asyncio.run(use(write=False)) == b"kept"
    finally:
        subprocess.run(
            ["epmd", "-port", epmd_port, "-kill"], env=CLEAN, capture_output=True, check=False
        )
