"""A control plane over the real memory or SQLite store and the real broker, served over HTTP."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from llamadeploy.control_plane.app import control_plane_app
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.http.serving import HttpServer
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.messages import ActionTypes, inbox_topic, topic_name
from llamadeploy.state_stores.records import (
    Completion,
    Dropped,
    Execution,
    NewEvent,
    StartRequest,
)
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import ServiceDefinition, ServiceOptions, TaskState
from llamadeploy.worker.operations import AppendRequest

NAMESPACE = "llama_deploy.test"
LEASE = 6.0

Handler = Callable[["Job"], Awaitable[str]]


@dataclass
class Job:
    """One attempt in the hands of the workers below."""

    control_plane: ControlPlane
    execution: Execution
    index: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    nudged: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def arguments(self) -> dict[str, Any]:
        return json.loads(self.execution.input)

    async def emit(self, *data: dict[str, Any]) -> None:
        events = tuple(
            NewEvent(index=self.index + n, type="Event", data=json.dumps(item))
            for n, item in enumerate(data)
        )
        self.index += len(events)
        await self.control_plane.execute("append_events", AppendRequest(self.execution.key, events))


class Workers:
    """Plain coroutines that take tasks as a worker does, by the real operations."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.control_plane = control_plane
        self.started: list[str] = []
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}

    def serve(self, service: str, handler: Handler, *, slots: int = 8) -> str:
        worker_id = f"{service}-{uuid.uuid4().hex[:6]}"
        loops = (self._run(service, worker_id, handler, slots), self._inbox(worker_id))
        self._tasks[worker_id] = [asyncio.create_task(loop) for loop in loops]
        return worker_id

    async def kill(self, worker_id: str) -> None:
        """End it without a word to the store; its broker connection breaks."""
        tasks = self._tasks.pop(worker_id)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, service: str, worker_id: str, handler: Handler, slots: int) -> None:
        queue, topic = self.control_plane.queue, topic_name(NAMESPACE, service)
        async with (
            asyncio.TaskGroup() as group,
            queue.consume(topic, group=service, prefetch=slots) as consumer,
        ):
            async for delivery in consumer:
                group.create_task(self._one(worker_id, handler, delivery))

    async def _one(self, worker_id: str, handler: Handler, delivery: Any) -> None:
        reply = await self.control_plane.execute(
            "start",
            StartRequest(
                task_id=delivery.message.data["task_id"],
                execution_id=uuid.uuid4().hex,
                worker_id=worker_id,
                lease=LEASE,
            ),
        )
        if isinstance(reply, Dropped):
            await delivery.ack()
            return
        self.started.append(reply.task_id)
        job = Job(self.control_plane, reply, reply.base_index)
        self._jobs[reply.task_id] = job
        state, data = TaskState.SUCCEEDED, {}
        try:
            result = await handler(job)
        except ValueError as error:
            state, result = TaskState.FAILED, str(error)
            data = {"state": "failed", "error": {"type": "ValueError", "message": result}}
        await self.control_plane.execute(
            "finish", Completion(key=reply.key, state=state, result=result, data=data)
        )
        await delivery.ack()

    async def _inbox(self, worker_id: str) -> None:
        topic = inbox_topic(NAMESPACE, worker_id)
        async with self.control_plane.queue.consume(
            topic, group=worker_id, ephemeral=True
        ) as consumer:
            async for delivery in consumer:
                job = self._jobs.get(delivery.message.data["task_id"])
                if job is not None:
                    cancel = delivery.message.action == ActionTypes.CANCEL_TASK
                    (job.cancelled if cancel else job.nudged).set()
                await delivery.ack()

    async def aclose(self) -> None:
        for worker_id in list(self._tasks):
            await self.kill(worker_id)


@dataclass
class Plane:
    """What a test drives."""

    control_plane: ControlPlane
    workers: Workers
    url: str
    http: aiohttp.ClientSession
    app: Any

    async def call(self, method: str, path: str, expect: int = 200, **kwargs: Any) -> Any:
        async with self.http.request(
            method, self.url + path, allow_redirects=False, **kwargs
        ) as response:
            text = await response.text()
            assert response.status == expect, f"{method} {path}: {response.status} {text}"
            return json.loads(text) if text else None

    async def get(self, path: str, expect: int = 200, **kwargs: Any) -> Any:
        return await self.call("GET", path, expect, **kwargs)

    async def post(self, path: str, body: Any = None, expect: int = 200, **kwargs: Any) -> Any:
        return await self.call("POST", path, expect, json=body, **kwargs)

    async def session(self) -> str:
        return str(await self.post("/sessions/create"))

    async def task(self, session: str, service: str = "echo", **arguments: Any) -> str:
        body = {"input": json.dumps(arguments), "service_id": service}
        return str(await self.post(f"/sessions/{session}/tasks", body))

    async def lines(self, path: str, expect: int = 200, **kwargs: Any) -> list[Any]:
        async with self.http.get(self.url + path, **kwargs) as response:
            text = await response.text()
            assert response.status == expect, text
            return [json.loads(line) for line in text.splitlines()]


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Return once ``condition`` (sync or async) is true; fail after ``seconds``."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running_plane(
    uri: str = "memory://",
    *,
    orchestrator: Any = None,
    default_service: str | None = "echo",
    token: str | None = None,
    queue: MessageQueue | None = None,
    **options: Any,
) -> AsyncIterator[Plane]:
    async with AsyncExitStack() as stack:
        store = await open_store(uri, NAMESPACE)
        stack.push_async_callback(store.aclose)
        queue = queue or LocalMessageQueue(Broker())
        stack.push_async_callback(queue.aclose)
        control_plane = ControlPlane(
            store,
            queue,
            name="quickstart",
            namespace=NAMESPACE,
            orchestrator=orchestrator,
            default_service=default_service,
            **options,
        )
        await control_plane.start()
        stack.push_async_callback(control_plane.stop)
        workers = Workers(control_plane)
        stack.push_async_callback(workers.aclose)
        app = control_plane_app(control_plane, token=token)
        server = HttpServer(app)
        await server.start()
        stack.push_async_callback(server.stop, 0.2)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for name in ("echo", "fail", "slow", "ask"):
            control_plane.declare_service(ServiceDefinition(service_name=name))
        yield Plane(control_plane, workers, server.url, http, app)


async def echo(job: Job) -> str:
    await job.emit({"n": 0}, {"n": 1}, {})
    return str(job.arguments.get("message", "nothing"))


async def fail(job: Job) -> str:
    await job.emit({"n": 0})
    raise ValueError("no good")


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    """A plane with the services ``echo`` and ``fail`` being worked on."""
    async with running_plane() as running:
        running.workers.serve("echo", echo)
        running.workers.serve("fail", fail)
        yield running


@pytest.fixture
def open_plane() -> Callable[..., Any]:
    """``async with open_plane(...) as plane`` for other stores, orchestrators and tokens."""
    return running_plane


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def service() -> Callable[..., ServiceDefinition]:
    def make(name: str, **options: Any) -> ServiceDefinition:
        return ServiceDefinition(service_name=name, options=ServiceOptions(**options))

    return make
