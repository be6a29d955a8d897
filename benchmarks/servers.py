"""Start and stop the servers under test: the original 0.8.1 and ours, each on free ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.environment import ORIGINAL_WITH_BROKERS, original_python, python_with

START_SECONDS = 60
STOP_SECONDS = 15
HOST = "127.0.0.1"


class ServerFailed(Exception):
    """A server ended or did not answer in time; the message carries the tail of its log."""


@dataclass(frozen=True)
class Server:
    """One running API server and where the deployment's control plane listens."""

    api_url: str
    control_plane_url: str
    queue_url: str
    process: subprocess.Popen[bytes]
    log: Path
    folder: Path
    """Holds deployment.yaml, the source below it, and the server's data."""

    @property
    def deployment_file(self) -> Path:
        return self.folder / "deployment.yaml"

    def tail(self, lines: int = 40) -> str:
        """The last `lines` of what the server printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class Service:
    """One service of the deployment under test."""

    path: str
    replicas: int = 1
    env: Mapping[str, str] | None = None
    max_concurrent_tasks: int | None = None


@dataclass(frozen=True)
class Backend:
    """Queue and store of a deployment, where they are not the embedded ones.

    Attributes:
        queue: the deployment file's ``message-queue``.
        store: ``state_store_uri``, which the original does not know.
    """

    queue: Mapping[str, object]
    store: str | None = None


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until the last one is found."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


@contextmanager
def original(
    folder: Path,
    source: Path,
    services: Mapping[str, Service],
    backend: Backend | None = None,
) -> Iterator[Server]:
    """The original API server 0.8.1 with nothing deployed; stopped at the end.

    `folder` gets a deployment file for `services` and a copy of `source` beside it.
    """
    python = original_python()
    if backend is not None:
        python = python_with(ORIGINAL_WITH_BROKERS, "compat-0.8.1-brokers")
    api, control_plane, queue = free_ports(3)
    write_deployment(
        folder, source, services, control_plane, queue, with_service_ports=True, backend=backend
    )
    environment = {
        "LLAMA_DEPLOY_APISERVER_HOST": HOST,
        "LLAMA_DEPLOY_APISERVER_PORT": str(api),
        "LLAMA_DEPLOY_APISERVER_PROMETHEUS_ENABLED": "false",
        "LLAMA_DEPLOY_APISERVER_DEPLOYMENTS_PATH": str(folder / "data"),
        "LLAMA_DEPLOY_APISERVER_RC_PATH": str(folder / "rc"),
    }
    command = [str(python), "-m", "llama_deploy.apiserver"]
    with _running(command, environment, folder, api, control_plane, queue) as server:
        yield server


@contextmanager
def ours(
    folder: Path,
    source: Path,
    services: Mapping[str, Service],
    deploy: bool = False,
    extra: Sequence[str] = (),
    backend: Backend | None = None,
) -> Iterator[Server]:
    """`llamactl serve` of this project, with a SQLite store unless `backend` names another; with
    `deploy` the file is served."""
    api, control_plane, queue = free_ports(3)
    write_deployment(folder, source, services, control_plane, queue, backend=backend)
    llamactl = Path(sys.executable).with_name("llamactl")
    command = [str(llamactl), "serve", "--host", HOST, "--port", str(api),
               "--data-dir", str(folder / "data"), *extra]  # fmt: skip
    if deploy:
        command.append(str(folder / "deployment.yaml"))
    with _running(command, {}, folder, api, control_plane, queue) as server:
        yield server


def write_deployment(
    folder: Path,
    source: Path,
    services: Mapping[str, Service],
    control_plane_port: int,
    queue_port: int,
    with_service_ports: bool = False,
    backend: Backend | None = None,
) -> None:
    """Write `folder`/deployment.yaml and copy `source` beside it as `src`."""
    shutil.copytree(source, folder / "src", dirs_exist_ok=True)
    entries: dict[str, dict[str, object]] = {}
    # The original gives services the ports from 8002 on unless the file names them.
    ports = free_ports(len(services)) if with_service_ports else []
    for index, (name, service) in enumerate(services.items()):
        entry: dict[str, object] = {
            "name": name,
            "source": {"type": "local", "name": "src"},
            "path": f"src/{service.path}",
        }
        if with_service_ports:
            entry |= {"host": HOST, "port": ports[index]}
        elif service.replicas != 1:
            entry["replicas"] = service.replicas
        if service.env:
            entry["env"] = dict(service.env)
        if service.max_concurrent_tasks is not None:
            entry["max-concurrent-tasks"] = service.max_concurrent_tasks
        entries[name] = entry
    control_plane: dict[str, object] = {"host": HOST, "port": control_plane_port}
    if backend is not None and backend.store is not None:
        control_plane["state_store_uri"] = backend.store
    simple = {"type": "simple", "host": HOST, "port": queue_port}
    document = {
        "name": folder.name,
        "control-plane": control_plane,
        "message-queue": simple if backend is None else dict(backend.queue),
        "default-service": next(iter(services)),
        "services": entries,
    }
    (folder / "deployment.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


@contextmanager
def _running(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    api: int,
    control_plane: int,
    queue: int,
) -> Iterator[Server]:
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**_clean_environment(), **environment},
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = Server(
        f"http://{HOST}:{api}", f"http://{HOST}:{control_plane}", f"http://{HOST}:{queue}",
        process, log, folder,
    )  # fmt: skip
    try:
        _wait_until_it_answers(server)
        yield server
    finally:
        stop(process)


def _clean_environment() -> dict[str, str]:
    """This process's environment without settings that either server would read."""
    prefixes = ("LLAMA", "CONTROL_PLANE_", "SIMPLE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _wait_until_it_answers(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            msg = f"server ended with {server.process.returncode}:\n{server.tail()}"
            raise ServerFailed(msg)
        try:
            with urllib.request.urlopen(f"{server.api_url}/status/", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise ServerFailed(f"no answer within {START_SECONDS} s:\n{server.tail()}")


def wait_for_services(server: Server, names: Iterable[str], seconds: float = START_SECONDS) -> None:
    """Wait until the control plane knows every service, for so many seconds at most.

    The original answers `create` earlier than that, and a task sent meanwhile is lost there.
    """
    wanted = set(names)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{server.control_plane_url}/services", timeout=5) as reply:
                if wanted <= set(json.load(reply)):
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    raise ServerFailed(f"{wanted} not registered within {seconds:g} s:\n{server.tail()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process with SIGTERM, then its whole group with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def create(server: Server, reload: bool = False) -> None:
    """POST the server's deployment file to `/deployments/create`.

    Raises:
        ServerFailed: the server refused; the message has its body and the tail of its log.
    """
    boundary = "deployment-file"
    content = server.deployment_file.read_text()
    body = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="config_file"; filename="deployment.yaml"\r\n'
        f"Content-Type: application/yaml\r\n\r\n{content}\r\n--{boundary}--\r\n"
    ).encode()
    query = urllib.parse.urlencode({"base_path": server.folder, "reload": str(reload).lower()})
    request = urllib.request.Request(
        f"{server.api_url}/deployments/create?{query}", data=body,
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS):
            return
    except urllib.error.HTTPError as error:
        detail = error.read().decode(errors="replace")
        msg = f"create answered {error.code}: {detail}\n{server.tail()}"
        raise ServerFailed(msg) from None
