"""Runs whose delivery is acknowledged before their end, because that takes long.

A broker waits for an acknowledgement only so long: RabbitMQ closes the whole channel after 30
minutes. So a run that goes on for minutes, or that waits for another service, is taken into
custody: the store marks its lease, then the delivery is acknowledged. From there on the lease alone
says that somebody works on the task; when it runs out, repair queues the task again.

A run that waits for another service also gives its slot away, and takes one again before it goes
on. So callers never keep their callees from running, and no more runs than slots are carried out;
but for runs that call and go on working meanwhile, which count as waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from llamadeploy.exceptions import QueueError, StoreError
from llamadeploy.state_stores.records import ExecutionKey
from llamadeploy.worker.backoff import persist
from llamadeploy.worker.gate import ExclusiveGate
from llamadeploy.worker.leases import Attempt, Leases, LeaseStore
from llamadeploy.worker.slots import Slots

log = logging.getLogger(__name__)

CUSTODY_SECONDS = 300.0
"""How long a run goes on before it is taken into custody (CORE rule 10): a sixth of the time after
which RabbitMQ by default closes the channel of a consumer that does not acknowledge."""

CALL_PATIENCE = 0.05
"""Seconds that a run keeps slot and delivery while it waits for another service: most calls are
answered earlier, and cost the store nothing then."""

LOOK_SECONDS = 2.0
"""Between two looks at how long runs have been going on."""

Resize = Callable[[int], Awaitable[None]]


class Custodian:
    """Takes the runs of one worker into custody. I/O loop only.

    Args:
        after: seconds, see :data:`CUSTODY_SECONDS`.
        resize: tells the queue how many deliveries this worker takes at once.
    """

    def __init__(
        self,
        store: LeaseStore,
        leases: Leases,
        slots: Slots,
        gate: ExclusiveGate,
        *,
        worker_id: str,
        lease: float,
        after: float,
        resize: Resize,
    ) -> None:
        self._store = store
        self._leases = leases
        self._slots = slots
        self._gate = gate
        self._worker_id = worker_id
        self._lease = lease
        self._after = after
        self._resize = resize
        self._freeing: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        """How many runs are in custody."""
        return sum(attempt.seat.acked for attempt in self._leases)

    # -- runs that take long -------------------------------------------------------------------
    async def keep(self) -> None:
        """Look after long runs, for ever."""
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._after / 4))
            try:
                await self._look()
            except (StoreError, QueueError) as error:
                log.warning("long runs are acknowledged later: %s", error)

    async def _look(self) -> None:
        before = time.monotonic() - self._after
        long = [a for a in self._leases if a.seat.since is not None and a.seat.since <= before]
        # First: what an acknowledgement makes room for would wait here for a slot.
        await self._resize(self._slots.number - len(long))
        fresh = [attempt for attempt in long if not attempt.seat.acked]
        if fresh:
            await self._take(fresh)

    async def _take(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            if attempt.following:  # the lease is the leader's
                await _acknowledge(attempt)
        led = [attempt for attempt in attempts if not attempt.following]
        if not led:
            return
        keys = [attempt.key for attempt in led]
        renewals = await self._store.renew(self._worker_id, keys, self._lease, custody=True)
        for attempt, renewal in zip(led, renewals, strict=True):
            if renewal.alive and not attempt.is_lost():
                await _acknowledge(attempt)

    async def stand_by(self, attempt: Attempt) -> None:
        """A follower's run has ended: wait, without slot and delivery, whether it counts."""
        if attempt.settled.done():
            return
        await _acknowledge(attempt)
        self._slots.give(attempt.seat)
        if attempt.resident:  # it has left the gate
            await attempt.settled
            return
        self._gate.pause()
        try:
            await attempt.settled
        finally:
            self._gate.resume()

    # -- runs that call ------------------------------------------------------------------------
    @asynccontextmanager
    async def calling(self, key: ExecutionKey) -> AsyncIterator[None]:
        """While the attempt ``key`` waits for another task; may be entered several times."""
        attempt = self._leases.get(key.task_id)
        if attempt is None or attempt.execution.key != key:
            yield  # the store says that it is not ours any more
            return
        self._leave(attempt)
        try:
            yield
        except asyncio.CancelledError:
            self._abandon(attempt)
            raise
        except BaseException:
            await self._return(attempt)
            raise
        await self._return(attempt)

    def _leave(self, attempt: Attempt) -> None:
        seat = attempt.seat
        seat.calls += 1
        if seat.calls > 1:
            return
        if attempt.execution.alone:
            self._gate.leave_alone()
        else:
            self._gate.pause()
        attempt.paused = True
        if not seat.freeing:
            seat.freeing = True
            task = asyncio.create_task(self._free(attempt))
            self._freeing.add(task)
            task.add_done_callback(self._freeing.discard)

    async def _return(self, attempt: Attempt) -> None:
        """Go on: with a slot, unless other calls of the run are still out."""
        seat = attempt.seat
        seat.calls -= 1
        if seat.calls:
            return
        try:
            if seat.since is None:
                await self._slots.take_back(seat)
                if attempt.left.done():
                    self._slots.give(seat)
            if attempt.execution.alone:
                await self._gate.enter_alone()
            else:
                self._gate.resume()
            attempt.paused = False
        except asyncio.CancelledError:
            self._resume_gate(attempt)
            raise

    def _abandon(self, attempt: Attempt) -> None:
        """The run was stopped while it waited; it needs no slot to end."""
        attempt.seat.calls -= 1
        if not attempt.seat.calls:
            self._resume_gate(attempt)

    def _resume_gate(self, attempt: Attempt) -> None:
        # One that was alone does not become so again: :class:`Executor` sees that it is paused.
        if not attempt.execution.alone:
            self._gate.resume()
            attempt.paused = False

    async def _free(self, attempt: Attempt) -> None:
        """Acknowledge, and give the slot away."""
        seat = attempt.seat

        def moot() -> bool:
            return not seat.calls or attempt.is_lost() or attempt.outcome.done()

        try:
            await asyncio.sleep(CALL_PATIENCE)
            if moot():
                return
            if not seat.acked:
                await persist(lambda: self._take([attempt]), give_up=moot)
            if seat.acked and not moot():
                self._slots.give(seat)
        except StoreError as error:
            log.warning("task %s keeps its slot while it calls: %s", attempt.key.task_id, error)
        finally:
            seat.freeing = False


async def _acknowledge(attempt: Attempt) -> None:
    attempt.seat.acked = True
    try:
        await attempt.seat.delivery.ack()
    except QueueError as error:
        # It comes again, and the store says then that it is leased.
        log.warning("task %s was not acknowledged: %s", attempt.key.task_id, error)
