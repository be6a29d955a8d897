"""A real API server in a process of its own, and the smallest HTTP client for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOWS = '''
import asyncio, os, pathlib
from workflows import Context, Workflow, step
from workflows.events import (
    HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent,
)

class Echo(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"v1 {ev.get('text', '')}")

class Environment(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=os.environ.get(ev.name, "unset"))

class Pid(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=str(os.getpid()))

class Gate(Workflow):
    """Waits until a file is there."""
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        gate = pathlib.Path(ev.gate)
        pathlib.Path(ev.gate + ".waiting").touch()
        while not gate.exists():
            await asyncio.sleep(0.02)
        return StopEvent(result="opened")

class Ask(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="name?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=f"hello {ev.response}")

class Suicide(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        print("about to end", flush=True)
        os._exit(7)

echo = Echo()
environment = Environment()
pid = Pid()
gate = Gate()
ask = Ask()
suicide = Suicide()
'''


@dataclass(frozen=True)
class Reply:
    """A status and what the body's JSON (or text) says."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def detail(self) -> str:
        return str(self.body["detail"])


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """The first true value of ``condition``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def deployment(name: str, *services: str, **options: Any) -> dict[str, Any]:
    """A deployment file; a service ``echo`` runs ``src/workflow:echo``. ``options`` by service."""
    return {
        "name": name,
        "control-plane": {},
        "default-service": services[0] if services else None,
        "services": {
            each: {
                "name": each,
                "source": {"type": "local", "name": "src"},
                "path": f"src/workflow:{each}",
                **options.get(each, {}),
            }
            for each in services
        },
    }


class ApiServer:
    """A running ``llamadeploy api-server``; also how tests reach the helpers of this file."""

    alive = staticmethod(alive)
    deployment = staticmethod(deployment)
    wait_until = staticmethod(wait_until)

    def __init__(self, data_dir: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.headers: dict[str, str] = {}
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA")}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llamadeploy", "api-server", "--port", "0",
                 "--data-dir", str(data_dir), *arguments],
                stdout=subprocess.PIPE, stderr=output, text=True, cwd=data_dir.parent,
                env={**environ, **(env or {})}, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.split()[-1] if line else ""

    # -- HTTP ----------------------------------------------------------------------------------
    def request(
        self, method: str, path: str, body: Any = None, *, timeout: float = 60,
        headers: dict[str, str] | None = None,
    ) -> Reply:  # fmt: skip
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(
            url, data, {"Content-Type": "application/json", **self.headers, **(headers or {})},
            method=method,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return _reply(response)
        except urllib.error.HTTPError as error:
            with error:
                return _reply(error)

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Reply:
        return self.request("POST", path, body if body is not None else b"", **options)

    def create(
        self,
        content: Any,
        base_path: Path | str = ".",
        *,
        reload: bool = False,
        local: bool = False,
    ) -> Reply:
        """POST a deployment file: text, bytes, or data that becomes YAML."""
        if not isinstance(content, str | bytes):
            content = yaml.safe_dump(content, sort_keys=False)
        data = content.encode() if isinstance(content, str) else content
        head = (
            '--XX\r\nContent-Disposition: form-data; name="config_file"; '
            'filename="deployment.yaml"\r\nContent-Type: application/yaml\r\n\r\n'
        )
        query = urllib.parse.urlencode(
            {"base_path": base_path, "reload": str(reload).lower(), "local": str(local).lower()}
        )
        return self.post(
            f"/deployments/create?{query}", head.encode() + data + b"\r\n--XX--\r\n",
            headers={"Content-Type": "multipart/form-data; boundary=XX"},
        )  # fmt: skip

    def run(self, deployment: str, service: str | None = None, **arguments: Any) -> Reply:
        body = {"input": json.dumps(arguments), "service_id": service}
        return self.post(f"/deployments/{deployment}/tasks/run", body)

    def start_task(self, deployment: str, service: str, **arguments: Any) -> dict[str, Any]:
        body = {"input": json.dumps(arguments), "service_id": service}
        reply = self.post(f"/deployments/{deployment}/tasks/create", body)
        assert reply.status == 200, reply
        return dict(reply.body)

    def result(self, deployment: str, task: dict[str, Any], wait: float = 20) -> dict[str, Any]:
        """The task's result, which must come within ``wait`` seconds."""
        query = f"session_id={task['session_id']}&wait={wait}"
        reply = self.get(f"/deployments/{deployment}/tasks/{task['task_id']}/results?{query}")
        assert reply.status == 200, reply
        assert reply.body is not None, f"no result within {wait} s; the log says:\n{self.tail()}"
        return dict(reply.body)

    def details(self, deployment: str) -> dict[str, Any]:
        return dict(self.get("/status/").body["details"][deployment])

    def service(self, deployment: str, service: str) -> dict[str, Any]:
        return dict(self.details(deployment)["services"][service])

    # -- process -------------------------------------------------------------------------------
    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])

    def workers(self) -> list[int]:
        """Pids of every worker process, as status tells."""
        return [
            worker["pid"]
            for deployment in self.get("/status/").body["details"].values()
            for service in deployment.get("services", {}).values()
            for worker in service["workers"]
            if worker["pid"]
        ]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it with a signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill_everything(self) -> None:
        """SIGKILL to the server and to every worker, all at once."""
        workers = self.workers()
        for pid in [self.process.pid, *workers]:
            os.kill(pid, signal.SIGKILL)
        self.stop()
        wait_until(lambda: not any(map(alive, workers)), "the workers are gone")


def _reply(response: Any) -> Reply:
    text = response.read().decode()
    headers = {name.lower(): value for name, value in response.headers.items()}
    try:
        return Reply(response.status, json.loads(text) if text else None, headers)
    except ValueError:
        return Reply(response.status, text, headers)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of deployment files, with the source ``src``."""
    return make_project(tmp_path_factory.mktemp("project"))


def make_project(folder: Path) -> Path:
    (folder / "src").mkdir()
    (folder / "src" / "workflow.py").write_text(textwrap.dedent(WORKFLOWS))
    return folder


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ApiServer]]:
    """``start_server(data_dir=None, *arguments)``; every server is ended after the module."""
    started: list[ApiServer] = []

    def start(
        data_dir: Path | None = None, *arguments: str, env: dict[str, str] | None = None
    ) -> ApiServer:
        folder = data_dir or tmp_path_factory.mktemp("server") / "data"
        started.append(ApiServer(folder, *arguments, env=env))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
    for server in started:
        server.ended()


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ApiServer]) -> ApiServer:
    """One server for the tests of a module."""
    running = start_server()
    assert running.url, running.tail()
    return running
