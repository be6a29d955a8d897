"""Deployments of real processes on a shared queue and store, and clients of their HTTP APIs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llamadeploy.testing import Cluster

WORKFLOW = '''
import asyncio, os, time
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from llamadeploy import call_service

class Tick(Event):
    number: int

class Work(Workflow):
    """Ticks, sleeps, asks a question where it is told to, and says where it ran."""

    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        with open(os.environ["LEDGER"], "a") as ledger:
            ledger.write(f"{ev.get('number', 0)} {os.getpid()}\\n")
        if ev.get("fail", False):
            raise ValueError("as it was told")
        if ev.get("die", False):
            os._exit(9)
        for number in range(ev.get("ticks", 0)):
            ctx.write_event_to_stream(Tick(number=number))
            await asyncio.sleep(ev.get("pause", 0))
        await asyncio.sleep(ev.get("seconds", 0))
        time.sleep(ev.get("blocks", 0))
        if not ev.get("ask", False):
            return StopEvent(result=f"done {ev.get('number', 0)}")
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="well?")
        )
        return StopEvent(result=f"heard {answer.response}")

class Caller(Workflow):
    """Asks the other service."""

    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        answer = await call_service("work", number=ev.number, seconds=ev.get("seconds", 0))
        return StopEvent(result="it says " + answer)

work = Work(timeout=60)
caller = Caller(timeout=60)
'''


@dataclass(frozen=True)
class Backend:
    """A queue and a store that are there, for one test."""

    queue_type: str
    queue_url: str
    state_store_uri: str
    queue_options: dict[str, Any]
    namespace: str


@pytest.fixture
def redis_backend(redis_server: Any, unique: str) -> Backend:
    """Redis as both."""
    uri = redis_server.uri
    return Backend("redis", uri, uri, {"exclusive_mode": True}, f"ns.{unique}")


@pytest.fixture(params=["redis", "rabbitmq"])
def backend(request: pytest.FixtureRequest, unique: str) -> Backend:
    """{Redis + Redis, RabbitMQ + PostgreSQL}, shared by the test run, a namespace alone."""
    if request.param == "redis":
        found: Backend = request.getfixturevalue("redis_backend")
        return found
    vhost = request.getfixturevalue("rabbitmq_vhost")
    url = request.getfixturevalue("rabbitmq_server").url(vhost)
    store = request.getfixturevalue("postgresql_server").uri
    return Backend("rabbitmq", url, store, {}, f"ns.{unique}")


@pytest.fixture
async def deploy(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts a deployment of processes on a backend; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(backend: Backend, **options: Any) -> Cluster:
            folder = tmp_path / backend.namespace
            folder.mkdir(exist_ok=True)
            options = {"services": {"work": {}}, "namespace": backend.namespace, **options}
            cluster = Cluster(
                folder,
                WORKFLOW,
                queue_type=backend.queue_type,
                queue_url=backend.queue_url,
                queue_options=backend.queue_options,
                state_store_uri=backend.state_store_uri,
                env={"LEDGER": str(folder / "ledger")},
                **options,
            )
            (folder / "ledger").touch()
            return await stack.enter_async_context(cluster)

        yield start


class Api:
    """One control plane's API under the deployment's name."""

    def __init__(self, http: aiohttp.ClientSession, url: str, deployment: str) -> None:
        self.http = http
        self.url = f"{url}/deployments/{deployment}"

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        async with self.http.request(method, self.url + path, json=body) as response:
            text = await response.text()
            assert response.status == status, (response.status, text)
            return json.loads(text) if text else None

    async def create(
        self, service: str = "work", session: str | None = None, **arguments: Any
    ) -> tuple[str, str]:
        """A task, by default in a session of its own: session and task."""
        body = {"input": json.dumps(arguments), "service_id": service}
        path = "/tasks/create" + (f"?session_id={session}" if session else "")
        task = await self.ask("POST", path, body)
        return task["session_id"], task["task_id"]

    async def result(self, session: str, task: str, wait: float = 30) -> str | None:
        path = f"/tasks/{task}/results?session_id={session}&wait={wait:g}"
        found = await self.ask("GET", path)
        return None if found is None else found["result"]

    async def events(self, session: str, task: str) -> list[dict[str, Any]]:
        """The whole stream."""
        path = f"{self.url}/tasks/{task}/events?session_id={session}"
        async with self.http.get(path) as response:
            assert response.status == 200
            return [json.loads(line) async for line in response.content if line.strip()]

    async def answer(self, session: str, task: str, text: str = "yes") -> None:
        """Send the event that a question waits for."""
        event = {
            "__is_pydantic": True,
            "value": {"_data": {"response": text}},
            "qualified_name": "workflows.events.HumanResponseEvent",
        }
        body = {"service_id": "work", "event_obj_str": json.dumps(event)}
        await self.ask("POST", f"/tasks/{task}/events?session_id={session}", body)

    async def state(self, session: str, task: str) -> str:
        return str((await self.ask("GET", f"/tasks/{task}?session_id={session}"))["state"])


@pytest.fixture
async def apis() -> AsyncIterator[Callable[[Cluster], list[Api]]]:
    """The APIs of a deployment's control planes."""
    async with AsyncExitStack() as stack:
        sessions: dict[int, aiohttp.ClientSession] = {}

        def of(cluster: Cluster) -> list[Api]:
            if id(cluster) not in sessions:
                sessions[id(cluster)] = aiohttp.ClientSession(headers=cluster.headers)
                stack.push_async_callback(sessions[id(cluster)].close)
            http = sessions[id(cluster)]
            return [Api(http, url, cluster.deployment) for url in cluster.urls]

        yield of


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waits until an asynchronous condition holds."""

    async def wait(condition: Callable[[], Any], seconds: float = 30) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := await condition()):
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.05)
        return value

    return wait
