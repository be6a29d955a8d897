"""A worker inside somebody else's process: its I/O has a thread, the workflow the caller's loop.

There the workflow may use what the caller has made on that loop, as with LlamaDeploy 0.8.1; a step
that blocks the loop still stops neither heartbeats nor leases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.messages import QueueMessage
from llamadeploy.signing import KeyRing
from llamadeploy.types import generate_id
from llamadeploy.worker.caller import RemoteServiceCaller
from llamadeploy.worker.control_plane_client import ControlPlaneClient
from llamadeploy.worker.loops import LoopThread
from llamadeploy.worker.remote_store import RemoteExecutionStore
from llamadeploy.worker.runner import WorkflowRunner
from llamadeploy.worker.worker import Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What a worker is made of.

    Attributes:
        open_queue: makes the queue's adapter, on the loop that will use it.
        timeout: seconds of non-idle time per task; ``None``: the workflow's own.
    """

    workflow: Any
    code_version: str
    open_queue: Callable[[], MessageQueue]
    control_plane_url: str
    token: str | None
    keyring: KeyRing
    service: str
    namespace: str
    max_concurrent_tasks: int
    timeout: float | None


class InProcessWorker:
    """Runs a :class:`Worker`. All methods are called on the caller's loop."""

    def __init__(self, plan: WorkerPlan, *, consume: bool) -> None:
        client = ControlPlaneClient(plan.control_plane_url, plan.token)
        self._caller = RemoteServiceCaller(client)
        self._store = RemoteExecutionStore(client=client)
        runner = WorkflowRunner(
            plan.workflow,
            plan.keyring,
            code_version=plan.code_version,
            timeout=plan.timeout,
            caller=self._caller,
        )
        self._queue = plan.open_queue()
        self._worker = Worker(
            runner,
            self._store,
            self._queue,
            service=plan.service,
            namespace=plan.namespace,
            worker_id=f"{plan.service}-{generate_id()}",
            max_concurrent_tasks=plan.max_concurrent_tasks,
            workflow_loop=asyncio.get_running_loop(),
            consume=consume,
        )
        self._io = LoopThread(f"io-{plan.service}")
        self._io.start()

    @property
    def in_flight(self) -> int:
        """How many executions it holds."""
        return self._worker.in_flight

    async def run(self) -> None:
        """Work until cancelled; what runs then is stopped and handed back to the store."""
        working = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._work(), self._io.loop))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            self._io.loop.call_soon_threadsafe(self._worker.drain, 0.0)
            # Bounded: the worker waits a few seconds for the store, and not longer.
            await working
            raise
        finally:
            self._io.stop()

    async def _work(self) -> None:
        self._caller.attach(asyncio.get_running_loop(), self._worker)
        try:
            await self._worker.run()
        finally:
            try:
                async with asyncio.timeout(1.0):
                    await self._queue.aclose()
            except (LlamaDeployError, TimeoutError) as error:
                log.warning("the message queue was not left in order: %s", error)
            await self._store.aclose()

    async def start_consuming(self) -> None:
        """Take deliveries from the queue; returns once it delivers."""
        await self._on_io(self._start_consuming())

    async def stop_consuming(self) -> None:
        """Take no more deliveries; what runs goes on."""
        await self._on_io(self._worker.stop_consuming())

    async def submit(self, message: QueueMessage) -> None:
        """Work on a message; returns once the worker has it."""
        await self._on_io(self._submit(message))

    async def _start_consuming(self) -> None:
        await self._worker.running.wait()
        self._worker.start_consuming()
        await self._worker.wait_subscribed()

    async def _submit(self, message: QueueMessage) -> None:
        await self._worker.running.wait()
        self._worker.submit(message)

    async def _on_io(self, call: Any) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._io.loop))
