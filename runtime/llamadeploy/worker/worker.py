"""One replica of one service: takes deliveries, runs them, writes how they ended, acknowledges.

Everything here runs on the I/O loop; the workflow runs on another one (see
:mod:`llamadeploy.worker.loops`). In this order: the store grants the attempt, the run's events and
its end are written, the delivery is acknowledged. What must happen after a crash is in the store,
so a delivery that the store does not want run is acknowledged like any other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from llamadeploy.exceptions import QueueError, StoreError, StoreUnavailableError
from llamadeploy.message_queues.base import Delivery, DeliveryMode, MessageQueue
from llamadeploy.messages import ActionTypes, QueueMessage, inbox_topic, topic_name
from llamadeploy.state_stores.records import Execution, ExecutionKey, StartReply, StartRequest
from llamadeploy.types import generate_id
from llamadeploy.worker.backoff import Backoff, persist
from llamadeploy.worker.contract import Runner
from llamadeploy.worker.custody import CUSTODY_SECONDS, Custodian
from llamadeploy.worker.deliveries import Begun, DirectDelivery, dispatch_of, task_of
from llamadeploy.worker.event_writer import EventWriter
from llamadeploy.worker.execution import Executor
from llamadeploy.worker.gate import ExclusiveGate
from llamadeploy.worker.leases import Attempt, Leases
from llamadeploy.worker.loops import LoopThread, Mailbox
from llamadeploy.worker.operations import WorkerStore
from llamadeploy.worker.slots import Seat, Slots
from llamadeploy.worker.subscription import Subscription

log = logging.getLogger(__name__)

LEASE = 6.0
"""Seconds after which a silent worker's tasks go to another one (CORE rule 9: 2 s against 6 s)."""

DRAIN_GRACE = 20.0
"""Seconds that running tasks get at a drain: Kubernetes kills 30 s after SIGTERM."""

STOPPING = 2.0
"""Seconds that a stopped run gets to come to its end before its task is handed back."""


class Worker:
    """Runs the tasks of ``service`` until it is drained.

    Args:
        store: the worker's half of the store; whoever implements it publishes what follows from a
            result (over the internal API that is the control plane).
        lease: seconds, see :data:`LEASE`.
        drain_grace: seconds, see :data:`DRAIN_GRACE`.
        custody_after: seconds, see :data:`llamadeploy.worker.custody.CUSTODY_SECONDS`.
        broadcast: run also what another replica leads, where the queue gives it to each of them.
        workflow_loop: where the workflow runs; a thread of its own by default.
        consume: whether to take deliveries from the start, or from :meth:`start_consuming` on.
    """

    def __init__(
        self,
        runner: Runner,
        store: WorkerStore,
        queue: MessageQueue,
        *,
        service: str,
        namespace: str,
        worker_id: str,
        max_concurrent_tasks: int = 8,
        lease: float = LEASE,
        drain_grace: float = DRAIN_GRACE,
        custody_after: float = CUSTODY_SECONDS,
        broadcast: bool = False,
        workflow_loop: asyncio.AbstractEventLoop | None = None,
        consume: bool = True,
    ) -> None:
        self._runner = runner
        self._store = store
        self._service = service
        self.worker_id = worker_id
        self._lease = lease
        self._drain_grace = drain_grace
        self._workflow_loop = workflow_loop
        self._leases = Leases(store, worker_id, lease)
        self._gate = ExclusiveGate()
        self._handling: set[asyncio.Task[None]] = set()
        self._early_nudges: dict[str, list[QueueMessage]] = {}
        self._draining = asyncio.Event()
        self._consuming = consume
        self._consumer: asyncio.Task[None] | None = None
        # Leaving a subscription hands back what is not acknowledged, at a drain also what still
        # runs: whoever gets that is told by the store that it is leased, and drops it.
        self._deliveries = Subscription(
            queue,
            topic_name(namespace, service),
            self._take,
            group=service,
            prefetch=max_concurrent_tasks,
        )
        # Losing a nudge costs time only: what it would have told comes with the next renewal.
        self._inbox = Subscription(
            queue,
            inbox_topic(namespace, worker_id),
            self._take_nudge,
            group=worker_id,
            prefetch=64,
            ephemeral=True,
        )
        self._follows = broadcast and queue.capabilities.delivery is DeliveryMode.BROADCAST
        self._begun = Begun()
        self._slots = Slots(max_concurrent_tasks)
        self._custody_after = custody_after
        self._custodian = Custodian(
            store,
            self._leases,
            self._slots,
            self._gate,
            worker_id=worker_id,
            lease=lease,
            after=custody_after,
            resize=self._deliveries.resize,
        )
        self.running = asyncio.Event()
        """Set once ``run`` has begun."""
        self.counts: Counter[str] = Counter()
        """Deliveries by how they ended: ``succeeded``, ``failed``, ``waiting`` (parked),
        ``stopped``, ``stale``, ``released``, ``handed_back`` (no slot became free),
        ``dead_letter``, ``followed`` (another replica's end counted), ``promoted`` (a follower that
        came to lead), ``dropped_<reason>``."""
        self._may_block = workflow_loop is None
        self._io: Mailbox
        self._workflow: Mailbox
        self._executor: Executor

    @property
    def in_flight(self) -> int:
        """How many executions this worker holds."""
        return len(self._leases)

    @property
    def in_custody(self) -> int:
        """How many of them were acknowledged to the queue already."""
        return self._custodian.held

    @property
    def subscribed(self) -> bool:
        """Whether it takes deliveries now."""
        return self._deliveries.active.is_set() and not self._draining.is_set()

    async def wait_subscribed(self) -> None:
        """Return once it takes deliveries."""
        await self._deliveries.active.wait()

    def drain(self, grace: float | None = None) -> None:
        """Take nothing more; ``run`` returns when what runs has ended or, after ``grace`` seconds
        (``drain_grace`` by default), has been handed back. Called on the I/O loop; idempotent."""
        if grace is not None:
            self._drain_grace = grace
        self._draining.set()

    def calling(self, key: ExecutionKey) -> AbstractAsyncContextManager[None]:
        """While the attempt ``key`` waits for another task. On the I/O loop."""
        return self._custodian.calling(key)

    def present(self, key: ExecutionKey) -> tuple[ExecutionKey, bool]:
        """What a run begun as ``key`` stands for now, and whether it leads. On the I/O loop."""
        attempt = self._leases.get(key.task_id)
        if attempt is None or attempt.execution.key != key:
            return key, False
        return attempt.key, not attempt.following

    async def run(self) -> None:
        """Work until drained. The loop this is called on is the I/O loop."""
        self._io = Mailbox(asyncio.get_running_loop())
        if self._workflow_loop is not None:
            await self._run_with(self._workflow_loop)
            return
        thread = LoopThread(f"workflow-{self._service}")
        thread.start()
        try:
            await self._run_with(thread.loop)
        finally:
            if not await asyncio.to_thread(thread.stop):
                log.warning("a workflow step still blocks its thread; it is left behind")

    async def _run_with(self, workflow_loop: asyncio.AbstractEventLoop) -> None:
        self._workflow = Mailbox(workflow_loop)
        self._executor = Executor(
            self._runner,
            self._store,
            self._gate,
            self.counts,
            self._io,
            self._workflow,
            self._leases.drop,
            self._stand_by,
        )
        parts = [
            asyncio.create_task(self._leases.keep(), name="leases"),
            asyncio.create_task(self._draining.wait(), name="drain"),
            asyncio.create_task(self._custodian.keep(), name="custody"),
            self._inbox.start(),
        ]
        if self._consuming:
            self.start_consuming()
        self.running.set()
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # but for the drain, one ends only with an error
            if self._consumer is not None and self._consumer.done():
                self._consumer.result()
            await self._deliveries.stop(STOPPING)
            await self._finish_handling()
        finally:
            self._draining.set()
            await _cancel(*parts, *self._handling)
            await self._deliveries.stop(STOPPING)

    def start_consuming(self) -> None:
        """Take deliveries of the service's topic. On the I/O loop."""
        self._consumer = self._deliveries.start()
        # An error that ended it ends the worker too, whose process is then started again.
        self._consumer.add_done_callback(self._consumer_ended)

    async def stop_consuming(self) -> None:
        """Take no more deliveries, go on with what runs. On the I/O loop."""
        await self._deliveries.stop(STOPPING)

    def _consumer_ended(self, consumer: asyncio.Task[None]) -> None:
        if not consumer.cancelled() and consumer.exception() is not None:
            self._draining.set()

    def submit(self, message: QueueMessage) -> None:
        """Work on a message that came by another way than the queue. On the I/O loop."""
        self._spawn(self._handle(DirectDelivery(message)))

    async def _finish_handling(self) -> None:
        """Let what runs end; hand back what does not in time."""
        for attempt in self._leases:
            if attempt.following and attempt.outcome.done():
                attempt.settle()
        if self._handling:
            await asyncio.wait(self._handling, timeout=self._drain_grace)
        for attempt in self._leases:
            attempt.hand_back()
        if self._handling:
            await asyncio.wait(self._handling, timeout=STOPPING)
        # Left: runs that block their loop, and writes that the store does not answer.
        stuck = [self._executor.release(attempt) for attempt in self._leases]
        try:
            async with asyncio.timeout(STOPPING):
                await asyncio.gather(*stuck)
        except (StoreError, TimeoutError) as error:
            log.warning("tasks were not handed back; their leases will run out: %s", error)

    # -- deliveries ----------------------------------------------------------------------------
    async def _take(self, delivery: Delivery) -> None:
        self._spawn(self._handle(delivery))

    def _spawn(self, handling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(handling)
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _handle(self, delivery: Delivery) -> None:
        done = False
        try:
            done = await self._work_on(delivery)
        except Exception:
            # A fault of ours: the lease runs out, and the store counts that as a crash.
            log.exception("message %s was not worked on", delivery.message.id_)
            await asyncio.sleep(Backoff(first=1.0).next())  # it is delivered again at once
        try:
            await (delivery.ack() if done else delivery.nack())
        except QueueError as error:
            # It comes again, and the store says then that there is nothing to do.
            log.warning("message %s was not acknowledged: %s", delivery.message.id_, error)

    async def _work_on(self, delivery: Delivery) -> bool:
        """Whether the message is done with (else: hand it back)."""
        try:
            task_id = task_of(delivery.message)
        except ValueError as error:
            return await self._dead_letter(delivery.message, str(error))
        seat = Seat(delivery)
        # The queue gives no more than there are slots, but runs that waited for others come back.
        patience = None if isinstance(delivery, DirectDelivery) else self._custody_after
        if not await self._slots.take(seat, patience):
            self.counts["handed_back"] += 1
            return False
        try:
            return await self._enter(task_id, seat)
        finally:
            self._slots.give(seat)

    async def _enter(self, task_id: str, seat: Seat) -> bool:
        await self._gate.enter()
        try:
            return await self._try(task_id, seat)
        finally:
            self._gate.leave()

    async def _dead_letter(self, message: QueueMessage, reason: str) -> bool:
        log.error("message %s goes to the dead letters: %s", message.id_, reason)
        self.counts["dead_letter"] += 1
        try:
            await persist(
                lambda: self._store.add_dead_letter(
                    reason, message.model_dump_json(), self._service
                ),
                give_up=self._draining.is_set,
            )
        except StoreUnavailableError:
            return False
        return True

    async def _try(self, task_id: str, seat: Seat) -> bool:
        """Ask for the task and run it; whether the delivery is done with (else: hand it back)."""
        if self._draining.is_set():
            return False
        message_id = seat.delivery.message.id_
        if message_id in self._begun:
            self.counts["dropped_repeated"] += 1
            return True
        self._early_nudges.setdefault(task_id, [])
        try:
            asked = time.monotonic()
            reply = await self._ask(task_id, dispatch_of(message_id) if self._follows else 0)
            if isinstance(reply, Execution):
                if self._follows:
                    self._begun.add(message_id)
                held = self._leases.get(task_id)
                if held is not None and held.continues(reply):
                    held.adopt(reply, asked + self._lease)
                    self.counts["promoted"] += reply.leading
                    return True
                attempt = self._hold(reply, asked, seat)
            else:
                if reply is not None:
                    self.counts[f"dropped_{reply.reason}"] += 1
                return reply is not None
        finally:
            nudges = self._early_nudges.pop(task_id, ())
        try:
            for message in nudges:
                self._nudge(message)
            await self._executor.carry_out(attempt)
        finally:
            self._leases.drop(attempt)
        return True

    async def _stand_by(self, attempt: Attempt) -> None:
        if not self._draining.is_set():
            await self._custodian.stand_by(attempt)

    async def _ask(self, task_id: str, follow: int) -> StartReply | None:
        request = StartRequest(
            task_id=task_id,
            execution_id=generate_id(),
            worker_id=self.worker_id,
            lease=self._lease,
            code_version=self._runner.code_version,
            follow=follow,
        )
        try:
            return await persist(lambda: self._store.start(request), give_up=self._draining.is_set)
        except StoreUnavailableError:
            return None
        except StoreError as error:
            log.error("task %s was not started: %s", task_id, error)
            await asyncio.sleep(Backoff(first=1.0).next())  # it is delivered again at once
            return None

    def _hold(self, execution: Execution, asked: float, seat: Seat) -> Attempt:
        attempt = Attempt(execution, self._workflow, asked + self._lease)
        attempt.seat = seat
        attempt.writer = EventWriter(
            self._store,
            attempt.key,
            self._io,
            lost=attempt.is_lost,
            on_stale=lambda: attempt.lose("superseded"),
            may_block=self._may_block,
            holding=attempt.following,
        )
        self._leases.hold(attempt)
        return attempt

    # -- nudges --------------------------------------------------------------------------------
    async def _take_nudge(self, delivery: Delivery) -> None:
        self._nudge(delivery.message)
        await delivery.ack()

    def _nudge(self, message: QueueMessage) -> None:
        task_id = message.data.get("task_id")
        if task_id in self._early_nudges:
            # Being started: the answer may be on its way.
            self._early_nudges[task_id].append(message)
        attempt = self._leases.get(task_id) if isinstance(task_id, str) else None
        if attempt is None:
            return
        if message.action is ActionTypes.CANCEL_TASK:
            attempt.lose("cancelled")
        elif message.action is ActionTypes.SEND_EVENT:
            seq = message.data.get("seq")
            attempt.inbound(seq if isinstance(seq, int) else 0, self._store)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=STOPPING)
