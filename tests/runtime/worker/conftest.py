"""A control plane with store and queue over real HTTP, and workers against it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from workflows import Workflow

from llamadeploy.control_plane.app import control_plane_app
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.http.serving import HttpServer
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.settings import PodSettings
from llamadeploy.signing import KeyRing
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import ServiceDefinition, ServiceOptions, TaskDefinition, TaskResult
from llamadeploy.worker.caller import RemoteServiceCaller
from llamadeploy.worker.control_plane_client import ControlPlaneClient
from llamadeploy.worker.direct_store import DirectExecutionStore
from llamadeploy.worker.remote_store import RemoteExecutionStore
from llamadeploy.worker.runner import WorkflowRunner
from llamadeploy.worker.worker import Worker

NAMESPACE = "tests.worker"
SERVICE = "echo"


class Plane:
    """One deployment's control plane, its store, queue, and servers on free ports."""

    def __init__(
        self,
        control_plane: ControlPlane,
        broker: Broker,
        *,
        namespace: str = NAMESPACE,
        shared_store: str | None = None,
    ) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.shared_store = shared_store
        self.store = control_plane.store
        self.queue = control_plane.queue
        self.broker = broker
        self.keyring = KeyRing.generate()
        self.queue_type = "simple"
        self.queue_uri = ""
        self.queue_options: dict[str, Any] = {}
        self.http = HttpServer(control_plane_app(control_plane))
        self.queue_server = SimpleMessageQueueServer(SimpleMessageQueueConfig(port=0), broker)

    async def start(self) -> None:
        await self.control_plane.start()
        await self.http.start()
        await self.queue_server.start()
        self.control_plane.queue_config = SimpleMessageQueueConfig(port=self.queue_server.port)

    async def stop(self) -> None:
        await self.control_plane.stop()
        await self.http.stop(0.1)
        await self.queue_server.stop(0.1)

    async def restart_http(self, port: int) -> None:
        """Serve again where it was served before."""
        self.http = HttpServer(control_plane_app(self.control_plane), port=port)
        await self.http.start()

    @property
    def url(self) -> str:
        return self.http.url

    @property
    def queue_url(self) -> str:
        return self.queue_server.url

    async def register(self, service: str = SERVICE, **options: Any) -> None:
        await self.control_plane.register_service(
            ServiceDefinition(service_name=service, options=ServiceOptions(**options))
        )

    async def create(self, service: str = SERVICE, **arguments: Any) -> str:
        """Create a task in a session of its own; its id."""
        return await self.create_in(None, service, **arguments)

    async def create_in(
        self, session_id: str | None, service: str = SERVICE, **arguments: Any
    ) -> str:
        task = TaskDefinition(input=json.dumps(arguments), service_id=service)
        created = await self.control_plane.create_task(
            task, session_id=session_id, new_session=session_id is None
        )
        return created.task_id

    async def result(self, task_id: str, timeout: float = 20.0) -> TaskResult:
        result = await self.control_plane.wait_result(task_id, timeout)
        assert result is not None, f"no result within {timeout} s"
        return result

    async def events(self, task_id: str) -> list[dict[str, Any]]:
        page = await self.store.read_log(task_id, 0, 100_000)
        return [json.loads(event.data) for event in page.events]

    @asynccontextmanager
    async def worker(
        self,
        workflow: Workflow,
        *,
        service: str = SERVICE,
        url: str | None = None,
        over_http: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> AsyncIterator[Worker]:
        """A worker on this loop, its workflow on a thread; drained at the end."""
        client = ControlPlaneClient(url or self.url)
        store: Any = RemoteExecutionStore(client=client)
        queue = open_queue("simple", self.queue_url) if over_http else self.queue
        if self.shared_store is not None:
            store = DirectExecutionStore(
                partial(open_store, self.shared_store, self.namespace, worker=True),
                queue,
                namespace=self.namespace,
                publisher_id=service,
            )
        caller = RemoteServiceCaller(client)
        runner = WorkflowRunner(
            workflow, self.keyring, code_version="1", timeout=timeout, caller=caller
        )
        options.setdefault("worker_id", f"{service}-{time.monotonic_ns()}")
        options.setdefault("drain_grace", 0.0)
        worker = Worker(runner, store, queue, service=service, namespace=self.namespace, **options)
        caller.attach(asyncio.get_running_loop(), worker)
        running = asyncio.create_task(worker.run())
        try:
            await asyncio.wait_for(worker.wait_subscribed(), 10)
            yield worker
        finally:
            worker.drain()
            await asyncio.wait_for(running, 15)
            if over_http:
                await queue.aclose()
            await store.aclose()
            await client.aclose()


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with AsyncExitStack() as stack:
        store = await open_store("memory://", NAMESPACE)
        stack.push_async_callback(store.aclose)
        broker = Broker()
        control_plane = ControlPlane(
            store, LocalMessageQueue(broker), name="tests", namespace=NAMESPACE
        )
        made = Plane(control_plane, broker)
        stack.push_async_callback(made.stop)
        await made.start()
        yield made


SITES = {
    "sqlite": (None, "simple", None),
    "redis": ("redis_server", "redis", "redis_server"),
    "redis-sqlite": ("redis_server", "redis", None),
    "redis-postgresql": ("redis_server", "redis", "postgresql_server"),
    "rabbitmq": ("rabbitmq_server", "rabbitmq", "postgresql_server"),
    "strict-rabbitmq": ("own_rabbitmq", "rabbitmq", "postgresql_server"),
}
"""By name: the fixture of the broker, the queue's type, the fixture of the store."""


@asynccontextmanager
async def _open_site(
    request: pytest.FixtureRequest, name: str, *, broadcast: bool = False
) -> AsyncIterator[Plane]:
    broker_name, queue_type, store_name = SITES[name]
    namespace = request.getfixturevalue("unique")
    broker = Broker()
    url, options = "", {}
    async with AsyncExitStack() as stack:
        if broker_name is None:
            queue: Any = LocalMessageQueue(broker)
        else:
            server = request.getfixturevalue(broker_name)
            url = server.uri if queue_type == "redis" else server.url()
            options = {"exclusive_mode": not broadcast} if queue_type == "redis" else {}
            queue = open_queue(queue_type, url, options)
            stack.push_async_callback(queue.aclose)
        uri = f"sqlite:///{request.getfixturevalue('tmp_path')}/state.db"
        if store_name is not None:
            uri = request.getfixturevalue(store_name).uri
        store = await open_store(uri, namespace)
        stack.push_async_callback(store.aclose)
        control_plane = ControlPlane(store, queue, name="tests", namespace=namespace)
        shared = None if store_name is None else uri
        made = Plane(control_plane, broker, namespace=namespace, shared_store=shared)
        made.queue_uri, made.queue_type, made.queue_options = url, queue_type, options
        stack.push_async_callback(made.stop)
        await made.start()
        yield made


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    """As ``plane``, on each broker and store; workers open the shared ones themselves."""
    async with _open_site(request, request.param) as made:
        yield made


@pytest.fixture
async def strict_rabbitmq_site(request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    """As ``site``, on a RabbitMQ that waits two seconds for an acknowledgement."""
    async with _open_site(request, "strict-rabbitmq") as made:
        yield made


@pytest.fixture(params=["redis", "redis-sqlite", "redis-postgresql"])
async def broadcasting(request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    """As ``site``; every worker gets every message."""
    async with _open_site(request, request.param, broadcast=True) as made:
        yield made


PROGRAM = """
import os
from llamadeploy.settings import PodSettings
from llamadeploy.worker.process import run_worker
os._exit(run_worker(PodSettings.from_env(), lease=1.0))
"""


@pytest.fixture
def worker_process(tmp_path: Path) -> Callable[..., Any]:
    """``worker_process(site, text, service=...)``: a worker of ``text``'s ``workflow`` as a
    process, killed at the end of the block."""

    @asynccontextmanager
    async def start(site: Plane, text: str, **settings: Any) -> AsyncIterator[Any]:
        (tmp_path / "workflow.py").write_text(text)
        values = {
            "namespace": site.namespace,
            "queue_type": site.queue_type,
            "queue_url": SecretStr(site.queue_uri or site.queue_url),
            "queue_options": site.queue_options,
            "state_store_uri": SecretStr(site.shared_store) if site.shared_store else None,
            "control_plane_url": site.url,
            "workflow_path": "workflow:workflow",
            "source_dir": tmp_path,
            "signing_keys": SecretStr(site.keyring.dump()),
        } | settings
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
            | PodSettings(**values).to_environ(),
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    return start


async def _eventually(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Waits for the first true value of ``condition()`` (awaited where it must be)."""
    return _eventually
