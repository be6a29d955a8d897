"""``llamactl serve`` as a user starts it, and clients that never give up and keep book."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

WORKFLOW = '''
import asyncio, os
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

class Tick(Event):
    number: int

class Work(Workflow):
    """Four kinds of tasks in one service, each of about 50 ms."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent | InputRequiredEvent:
        note("begin", ev.number)
        if ev.kind == "ask":
            return InputRequiredEvent(prefix=ev.number)
        for tick in range(5):
            await asyncio.sleep(0.01)
            if ev.kind == "stream":
                ctx.write_event_to_stream(Tick(number=tick))
        result = ev.number
        if ev.kind == "count":
            result = await ctx.store.get("count", default=0) + 1
            await ctx.store.set("count", result)
        note("end", ev.number)
        return StopEvent(result=f"{ev.kind} {result}")

    @step
    async def answered(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent:
        await asyncio.sleep(0.05)
        return StopEvent(result=f"ask {ev.response}")

def note(what, number):
    """One line per run in a file that outlives every process."""
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{what} {number} {os.getpid()}\\n")

work = Work(timeout=60)
'''

TICKS = 5
FAILURES = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""What a client of a server that was killed sees: the connection broke, or there is none."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-rounds", type=int, default=0, help="how often to kill each of the processes"
    )
    parser.addoption(
        "--write-table", action="store_true", help="bring docs/reliability.md up to date"
    )


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Laptop:
    """``llamactl serve`` with one service of two replicas, started again on the same data."""

    alive = staticmethod(alive)

    def __init__(
        self, folder: Path, workflow: str = WORKFLOW, *, replicas: int = 2, **service: Any
    ) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.log = folder / "server.log"
        self._port = free_port()
        self._file = folder / "deployment.yaml"
        self._file.write_text(yaml.safe_dump_all(self._manifest(workflow, replicas, service)))
        self.process: subprocess.Popen[bytes] | None = None

    def _manifest(
        self, workflow: str, replicas: int, service: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "code"},
            "data": {"workflow.py": textwrap.dedent(workflow)},
        }
        yield {
            "apiVersion": "llamadeploy.io/v1alpha1",
            "kind": "Deployment",
            "metadata": {"name": "chaos"},
            "spec": {
                "defaultService": "work",
                "services": [
                    {
                        "name": "work",
                        "replicas": replicas,
                        "source": {"configMap": {"name": "code"}},
                        "path": "workflow:work",
                        "env": [{"name": "LEDGER", "value": str(self.ledger)}],
                        **service,
                    }
                ],
            },
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA")}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("llamactl")), "serve",
                 "--port", str(self._port), "--data-dir", str(self.folder / "data"),
                 str(self._file)],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.folder,
                env=environ, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL to the server alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def runs(self) -> list[tuple[str, int, int]]:
        """What the workflows noted: what, the task's number, the process."""
        lines = self.ledger.read_text().split("\n")
        return [(w, int(n), int(p)) for w, n, p in (line.split() for line in lines if line)]


class Book:
    """What clients asked for, what they got, and what they had to put up with."""

    def __init__(self) -> None:
        self.expected: dict[int, str] = {}
        self.got: dict[int, str] = {}
        self.tasks: dict[int, dict[str, Any]] = {}
        self.broken = 0
        """Broken or refused connections."""
        self.put_off = 0
        """Answers 503 with Retry-After."""
        self.dirty: list[str] = []
        """Answers that tell a client to give up although its task was fine."""

    @property
    def done(self) -> int:
        return len(self.got)


class Clients:
    """Calls that are repeated until they go through, as any client of a laptop would."""

    def __init__(self, http: aiohttp.ClientSession, laptop: Laptop) -> None:
        self.http = http
        self.laptop = laptop
        self.url = laptop.url
        self.book = Book()

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> Any:
        headers = {} if key is None else {"Idempotency-Key": key}
        while True:
            try:
                async with self.http.request(
                    method, f"{self.url}/deployments/chaos{path}", json=body, headers=headers
                ) as reply:
                    if await self._accepted(reply):
                        return await reply.json()
            except FAILURES:
                self.book.broken += 1
            await asyncio.sleep(0.05)

    async def _accepted(self, reply: aiohttp.ClientResponse) -> bool:
        """Whether there is an answer; else to be asked for again."""
        if reply.status == 200:
            return True
        if reply.status == 503 and "Retry-After" in reply.headers:
            self.book.put_off += 1
            return False
        text = await reply.text()
        self.book.dirty.append(f"{reply.method} {reply.url}: {reply.status} {text[:200]}")
        raise AssertionError(self.book.dirty[-1])

    def task(self, number: int, kind: str) -> dict[str, str]:
        return {"input": json.dumps({"kind": kind, "number": number}), "service_id": "work"}

    async def run(self, number: int) -> None:
        """One call that waits for the result."""
        self.book.expected[number] = f"run {number}"
        body = self.task(number, "run")
        self.book.got[number] = await self.call("POST", "/tasks/run", body, key=f"run-{number}")

    async def create(self, number: int, kind: str, session: str | None = None) -> dict[str, Any]:
        query = f"?session_id={session}" if session else ""
        task: dict[str, Any] = await self.call(
            "POST", f"/tasks/create{query}", self.task(number, kind), key=f"{kind}-{number}"
        )
        self.book.tasks[number] = task
        return task

    def path(self, task: dict[str, Any], what: str) -> str:
        return f"/tasks/{task['task_id']}{what}?session_id={task['session_id']}"

    async def result(self, number: int, task: dict[str, Any]) -> None:
        while True:
            result = await self.call("GET", self.path(task, "/results") + "&wait=5")
            if result is not None:
                self.book.got[number] = result["result"]
                return

    async def state(self, task: dict[str, Any]) -> str:
        return str((await self.call("GET", self.path(task, "")))["state"])

    async def in_session(self, numbers: range) -> None:
        """Tasks of one session, all at once: each sees how many were before it."""
        session = (await self.call("POST", "/sessions/create"))["session_id"]
        waiting = []
        for place, number in enumerate(numbers, 1):
            self.book.expected[number] = f"count {place}"
            task = await self.create(number, "count", session)
            waiting.append(asyncio.create_task(self.result(number, task)))
        await asyncio.gather(*waiting)

    async def follow(self, number: int) -> None:
        """A stream that is taken up again where it broke: no event twice, none left out."""
        self.book.expected[number] = f"stream {number}"
        task = await self.create(number, "stream")
        seen: list[int] = []
        while not await self._read_on(task, seen):
            await asyncio.sleep(0.05)
        assert seen == [*range(TICKS), -1], seen
        await self.result(number, task)

    async def _read_on(self, task: dict[str, Any], seen: list[int]) -> bool:
        """Read the stream from where ``seen`` ends; whether it came to its end."""
        url = self.url + "/deployments/chaos" + self.path(task, "/events") + "&format=typed"
        after = task.setdefault("after", 0)
        try:
            async with self.http.get(f"{url}&after={after}") as reply:
                if not await self._accepted(reply):
                    return False
                async for raw in reply.content:
                    if not raw.strip():
                        continue
                    line = json.loads(raw)
                    if "restart" in line:
                        del seen[line["restart"]["base_index"] :]
                        continue
                    task["after"] = line["seq"]
                    assert line["index"] == len(seen), (line, seen)
                    seen.append(line["data"].get("number", -1))
        except FAILURES:
            self.book.broken += 1
            return False
        return True

    async def ask(self, number: int, answer_at: asyncio.Event | None = None) -> None:
        """A task that waits for a person, who may take their time."""
        self.book.expected[number] = f"ask answer-{number}"
        task = await self.create(number, "ask")
        if answer_at is not None:
            await answer_at.wait()
        event = {
            "__is_pydantic": True,
            "value": {"_data": {"response": f"answer-{number}"}},
            "qualified_name": "workflows.events.HumanResponseEvent",
        }
        body = {"service_id": "work", "event_obj_str": json.dumps(event)}
        await self.call("POST", self.path(task, "/events"), body)
        await self.result(number, task)

    async def ready(self, seconds: float = 30) -> float:
        """When the server said that it is ready."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(*FAILURES):
                async with self.http.get(f"{self.url}/readyz") as reply:
                    if reply.status == 200:
                        return time.monotonic()
            await asyncio.sleep(0.05)
        raise AssertionError(f"not ready within {seconds} s\n{self.laptop.tail()}")

    async def workers(self) -> list[dict[str, Any]]:
        """The replicas that have a process, as status tells."""
        async with self.http.get(f"{self.url}/status/") as reply:
            details = (await reply.json())["details"]["chaos"]
        return [w for w in details["services"]["work"]["workers"] if w["pid"]]


@pytest.fixture(scope="module")
def start_laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Laptop]]:
    """``start_laptop(workflow, replicas=2, **service)``: a server, ended after the module."""
    started: list[Laptop] = []

    def start(workflow: str = WORKFLOW, **service: Any) -> Laptop:
        started.append(Laptop(tmp_path_factory.mktemp("laptop"), workflow, **service))
        started[-1].start()
        return started[-1]

    yield start
    for laptop in started:
        # A worker that a test stopped must not keep the server from draining.
        for _, _, pid in laptop.runs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    for laptop in started:
        laptop.stop()


@pytest.fixture(scope="module")
def laptop(start_laptop: Callable[..., Laptop]) -> Laptop:
    """One server for the tests of a module."""
    return start_laptop()


@pytest.fixture
async def clients() -> AsyncIterator[Callable[[Laptop], Clients]]:
    """``clients(laptop)``: with connections enough for every task to have its own."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        yield lambda laptop: Clients(http, laptop)
