"""``llamadeploy worker``: one replica of one service as a process of its own.

Exit codes: 0 drained, 1 failed (also a second signal), 2 wrong settings, a workflow that cannot be
loaded, or a control plane that refused the service.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import msgspec
import uvloop

from llamadeploy.collector import settle_collector
from llamadeploy.exceptions import ConfigurationError, LlamaDeployError
from llamadeploy.logs import configure_logging
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.metrics.deployment import DeploymentMetrics
from llamadeploy.metrics.instruments import Family
from llamadeploy.metrics.worker import WorkerMetrics
from llamadeploy.prepared import prepared_variables
from llamadeploy.settings import METRICS_PORT, PodSettings, forget_secrets
from llamadeploy.state_stores.registry import is_shared, open_store
from llamadeploy.types import ServiceDefinition, ServiceOptions
from llamadeploy.worker.caller import RemoteServiceCaller
from llamadeploy.worker.contract import Runner
from llamadeploy.worker.control_plane_client import ControlPlaneClient
from llamadeploy.worker.direct_store import DirectExecutionStore
from llamadeploy.worker.health import HealthServer
from llamadeploy.worker.remote_store import RemoteExecutionStore
from llamadeploy.worker.worker import DRAIN_GRACE, LEASE, Worker

log = logging.getLogger(__name__)

READY_FD = "LLAMADEPLOY_READY_FD"
"""Descriptor of a pipe: one line of JSON is written there when the worker takes tasks. It is
closed without one when the worker ends before that; the reason is then on standard error."""

HEALTH_HOST = "LLAMADEPLOY_HEALTH_HOST"
HEALTH_PORT = "LLAMADEPLOY_HEALTH_PORT"
"""Address and port of the probes; 0 for a free port. By default 9090 on all interfaces, or a free
one where that is taken; none where a parent watches this process itself."""

ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - probes and metrics alone, which hold no secrets

ORPHAN_GRACE = 1.0
"""Seconds for running tasks when the parent is gone, and the store with it."""


def main() -> NoReturn:
    """The entry point; settings come from the environment alone."""
    code = 1
    try:
        settings = PodSettings.from_env()
        forget_secrets(os.environ)
        if settings.source_dir is not None:
            os.environ.update(prepared_variables(settings.source_dir))
        configure_logging(settings.log_format, settings.log_level)
        code = run_worker(settings)
    except LlamaDeployError as error:
        # Not through the log: its configuration may be what is wrong.
        sys.stderr.write(f"Error: {error}\n")
        code = 2
    except Exception:
        log.exception("the worker failed")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Not sys.exit: it would wait for the threads of abandoned synchronous steps.
    os._exit(code)


def run_worker(
    settings: PodSettings, environ: Mapping[str, str] | None = None, *, lease: float = LEASE
) -> int:
    """Load the workflow and serve it until SIGTERM, SIGINT or the parent's end; the exit code.

    Args:
        lease: seconds after which a silent worker's tasks go to another one.

    Raises:
        ConfigurationError: a setting is missing or wrong, or the control plane refused.
        WorkflowLoadError: the workflow cannot be imported.
    """
    environ = os.environ if environ is None else environ
    settings.require("service", "control_plane_url", "workflow_path", "source_dir", "signing_keys")
    process = WorkerProcess(settings, environ, lease)
    settle_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(process.run())


def service_definition(settings: PodSettings) -> ServiceDefinition:
    """What a worker registers with its control plane."""
    return ServiceDefinition(
        service_name=settings.service or "",
        options=ServiceOptions(
            session_policy=settings.session_policy,
            timeout=settings.task_timeout_seconds,
            wait_timeout=settings.wait_timeout_seconds,
            queue_timeout=settings.queue_timeout_seconds,
            max_retries=settings.max_retries,
            retry_on_error=settings.retry_on_error,
            broadcast=settings.broadcast,
        ),
    )


class WorkerProcess:
    """The worker and what a process needs around it: signals, parent, probes, registration."""

    def __init__(self, settings: PodSettings, environ: Mapping[str, str], lease: float) -> None:
        token = settings.api_token
        self._settings = settings
        self._environ = environ
        self._client = ControlPlaneClient(
            settings.control_plane_url or "", token.get_secret_value() if token else None
        )
        uri = settings.state_store_uri.get_secret_value() if settings.state_store_uri else ""
        commits = DeploymentMetrics(settings.deployment) if is_shared(uri) else None
        self._metrics = WorkerMetrics(settings.deployment, settings.service or "", commits)
        worker_id = settings.worker_id or f"{settings.replica or settings.service}-{_suffix()}"
        self._queue = _open_queue(settings)
        self._store = self._open_store(uri, worker_id, commits)
        self._caller = RemoteServiceCaller(
            self._client,
            # Where the control plane has the store it also forgets the sessions of calls.
            self._store.remember_child if isinstance(self._store, DirectExecutionStore) else None,
        )
        self._worker = Worker(
            _make_runner(settings, self._caller),
            self._store,
            self._queue,
            service=settings.service or "",
            namespace=settings.namespace,
            worker_id=worker_id,
            max_concurrent_tasks=settings.max_concurrent_tasks,
            lease=lease,
            drain_grace=settings.drain_seconds or DRAIN_GRACE,
            broadcast=settings.broadcast,
        )
        self._health: HealthServer | None = None
        self._ready_fd = _number(environ, READY_FD)
        self._registered = False
        self._stopping = asyncio.Event()

    def _open_store(
        self, uri: str, worker_id: str, commits: DeploymentMetrics | None
    ) -> DirectExecutionStore | RemoteExecutionStore:
        if not is_shared(uri):
            return RemoteExecutionStore(client=self._client, on_operation=self._metrics.operation)
        return DirectExecutionStore(
            partial(open_store, uri, self._settings.namespace, worker=True),
            self._queue,
            namespace=self._settings.namespace,
            publisher_id=worker_id,
            observer=commits,
        )

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        if self._settings.parent_fd is not None:
            loop.add_reader(self._settings.parent_fd, self._on_parent, self._settings.parent_fd)
        announcing = loop.create_task(self._announce())
        try:
            await self._start_health()
            if await self._register():
                self._caller.attach(loop, self._worker)
                await self._worker.run()
        finally:
            announcing.cancel()
            await self._close()
        log.info("worker %s has ended: %s", self._worker.worker_id, dict(self._worker.counts))
        return 0

    async def _register(self) -> bool:
        """False when told to stop before the control plane answered."""
        registering = asyncio.create_task(
            self._client.register_when_up(service_definition(self._settings))
        )
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({registering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not registering.done():
            registering.cancel()
            return False
        registering.result()
        self._registered = True
        return True

    async def _announce(self) -> None:
        """Tell whoever started us that tasks are taken from now on."""
        await self._worker.wait_subscribed()
        log.info("worker %s takes tasks of %s", self._worker.worker_id, self._settings.service)
        if self._ready_fd is None:
            return
        line = {
            "ready": True,
            "worker_id": self._worker.worker_id,
            "pid": os.getpid(),
            "health_port": self._health.port if self._health else None,
        }
        os.write(self._ready_fd, msgspec.json.encode(line) + b"\n")
        os.close(self._ready_fd)

    async def _start_health(self) -> None:
        port = _number(self._environ, HEALTH_PORT)
        if port is None and self._ready_fd is not None:
            return
        host = self._environ.get(HEALTH_HOST) or (ALL_INTERFACES if port is None else "127.0.0.1")
        try:
            self._health = await self._serve_health(host, METRICS_PORT if port is None else port)
        except ConfigurationError:
            if port is not None:
                raise
            self._health = await self._serve_health(host, 0)
            log.warning("port %d is taken: probes are at %d", METRICS_PORT, self._health.port)

    async def _serve_health(self, host: str, port: int) -> HealthServer:
        server = HealthServer(self._problems, self._measure, host, port)
        await server.start()
        return server

    def _measure(self) -> list[Family]:
        worker = self._worker
        slots = self._settings.max_concurrent_tasks
        return self._metrics.families(
            worker.counts, worker.in_flight, slots, custody=worker.in_custody
        )

    def _problems(self) -> list[str]:
        if self._stopping.is_set():
            return ["the worker is draining"]
        if not self._registered:
            return ["the control plane has not answered yet"]
        return [] if self._worker.subscribed else ["the message queue does not deliver"]

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            os._exit(1)
        log.info("%s: draining; a second one ends at once", number.name)
        self._stop()

    def _on_parent(self, descriptor: int) -> None:
        if os.read(descriptor, 512):
            return
        asyncio.get_running_loop().remove_reader(descriptor)
        log.warning("whoever started this worker has ended: draining")
        self._stop(ORPHAN_GRACE)

    def _stop(self, grace: float | None = None) -> None:
        self._stopping.set()
        self._worker.drain(grace)

    async def _close(self) -> None:
        if self._health is not None:
            await self._health.stop()
        try:
            async with asyncio.timeout(1.0):
                await self._queue.aclose()
        except (LlamaDeployError, TimeoutError) as error:
            log.warning("the message queue was not left in order: %s", error)
        await self._store.aclose()
        await self._client.aclose()


def _open_queue(settings: PodSettings) -> MessageQueue:
    from llamadeploy.message_queues.registry import open_queue

    url = settings.queue_url
    return open_queue(
        settings.queue_type, url.get_secret_value() if url else None, settings.queue_options
    )


def _make_runner(settings: PodSettings, caller: RemoteServiceCaller) -> Runner:
    # Here and not above: the workflow library takes a quarter of a second, which wrong settings
    # need not wait for.
    from llamadeploy.signing import KeyRing
    from llamadeploy.worker.loader import code_version, load_workflow
    from llamadeploy.worker.runner import WorkflowRunner

    assert settings.workflow_path and settings.source_dir and settings.signing_keys  # noqa: S101
    return WorkflowRunner(
        load_workflow(settings.workflow_path, settings.source_dir),
        KeyRing.parse(settings.signing_keys.get_secret_value()),
        code_version=code_version(settings.source_dir),
        timeout=settings.task_timeout_seconds,
        caller=caller,
    )


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigurationError(f"{name} is {text!r}: it must be a number from 0 to 65535")
    return int(text)


def _suffix() -> str:
    return uuid.uuid4().hex[:8]
