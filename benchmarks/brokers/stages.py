"""How long each stage of a task takes, one task at a time, on queue and store alone.

A process plays control plane and worker with the very adapters, without HTTP and without a
workflow: what is measured is the way to the brokers and back.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
import uuid

import uvloop

from benchmarks.brokers.backends import Pair
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.messages import QueueMessage
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import Completion, Execution, NewEvent, NewTask, StartRequest
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import TaskState

NAMESPACE = "stages"
TOPIC = f"{NAMESPACE}.echo"
STAGES = {
    "create": "create: the task and its outbox row are stored",
    "deliver": "publish, until the worker has the message",
    "start": "start: the attempt owns the task",
    "finish": "finish: result, event and context are stored",
    "tell": "from the result stored until whoever waits has it",
}
"""In the order of a task's way; all on the critical path."""


def stages(pair: Pair, count: int) -> dict[str, float]:
    """Microseconds by stage, the middle of `count` tasks."""
    return uvloop.run(_measure(pair, count))


async def _measure(pair: Pair, count: int) -> dict[str, float]:
    options = {key: value for key, value in pair.backend.queue.items() if key == "exclusive_mode"}
    kind = str(pair.backend.queue["type"])
    queues = [open_queue(kind, pair.queue_url, options) for _ in range(2)]
    assert pair.backend.store is not None
    store = await open_store(pair.backend.store, NAMESPACE)
    workers = await open_store(pair.backend.store, NAMESPACE, worker=True)
    try:
        return await _Course(store, queues[0], workers, queues[1]).run(count)
    finally:
        closing: tuple[MessageQueue | StateStore, ...] = (*queues, store, workers)
        for each in closing:
            await each.aclose()


class _Course:
    def __init__(
        self, store: StateStore, queue: MessageQueue, workers: StateStore, deliveries: MessageQueue
    ) -> None:
        self._store = store
        self._queue = queue
        self._workers = workers
        self._deliveries = deliveries
        self._times: dict[str, dict[str, float]] = {}

    async def run(self, count: int) -> dict[str, float]:
        subscribed = asyncio.Event()
        worker = asyncio.create_task(self._work(subscribed))
        await subscribed.wait()
        for _ in range(count // 4):
            await self._task()  # warms up
        self._times.clear()
        for _ in range(count):
            await self._task()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        points = ["begin", *STAGES]
        return {
            stage: 1e6 * statistics.median(
                times[stage] - times[before] for times in self._times.values()
            )
            for before, stage in itertools.pairwise(points)
        }  # fmt: skip

    async def _task(self) -> None:
        task_id = uuid.uuid4().hex
        times = self._times[task_id] = {"begin": time.perf_counter()}
        with self._store.follow(task_id) as follower:
            await self._store.create_task(
                NewTask(
                    task_id=task_id, session_id=task_id, service="echo", input='{"message": "x"}',
                    new_session=True,
                )
            )  # fmt: skip
            times["create"] = time.perf_counter()
            message = QueueMessage(id_=task_id, type="echo", data={"task_id": task_id})
            publishing = asyncio.create_task(self._queue.publish(TOPIC, message))
            while await follower.end(5.0) is None:
                record = await self._store.get_task(task_id)
                if record is not None and record.state.terminal:
                    break
            times["tell"] = time.perf_counter()
            await publishing

    async def _work(self, subscribed: asyncio.Event) -> None:
        consumer = self._deliveries.consume(TOPIC, group="echo", prefetch=8)
        async with consumer:
            subscribed.set()
            async for delivery in consumer:
                task_id = delivery.message.data["task_id"]
                times = self._times[task_id]
                times["deliver"] = time.perf_counter()
                reply = await self._workers.start(
                    StartRequest(task_id=task_id, execution_id="x", worker_id="w", lease=60.0)
                )
                times["start"] = time.perf_counter()
                assert isinstance(reply, Execution)
                await self._workers.finish(
                    Completion(
                        key=reply.key, state=TaskState.SUCCEEDED, result="echo: x",
                        context="x" * 400, events=(NewEvent(0, "StopEvent", "{}"),),
                    )
                )  # fmt: skip
                times["finish"] = time.perf_counter()
                await delivery.ack()
