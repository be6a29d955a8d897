"""The attempts that a worker holds, and their leases."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from llamadeploy.exceptions import StoreError
from llamadeploy.state_stores.records import Execution, ExecutionKey, InboundEvent, Renewal
from llamadeploy.worker.backoff import Backoff, persist
from llamadeploy.worker.contract import Failed, Outcome, Run
from llamadeploy.worker.event_writer import EventWriter
from llamadeploy.worker.loops import Mailbox
from llamadeploy.worker.slots import Seat

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
"""A lease of 6 s is renewed every 2 s: two renewals may get lost."""


class LeaseStore(Protocol):
    """What leases need of a store."""

    async def renew(
        self,
        worker_id: str,
        keys: Sequence[ExecutionKey],
        lease: float,
        *,
        custody: bool = False,
    ) -> list[Renewal]:
        """See :class:`llamadeploy.state_stores.base.ExecutionStore`."""
        ...

    async def read_inbound(self, key: ExecutionKey, after: int) -> list[InboundEvent]:
        """See :class:`llamadeploy.state_stores.base.ExecutionStore`."""
        ...


class Attempt:
    """One execution in the hands of this worker. I/O loop only, but for ``run``.

    Attributes:
        expires: on the monotonic clock, when the store may give the task to somebody else.
        lost: why it is not ours any more (its outcome is not written), or ``None``.
        draining: the process ends; a stopped run is handed back.
        writing: the run has ended and its outcome is being written.
        resident: the run waits in memory.
        paused: the run waits for another task; it has left the gate.
        seat: its delivery, and the slot it takes.
        key: of the attempt as it counts now; ``execution`` stays what the run was begun with.
        following: another worker leads; nothing is written.
        settled: done once it is known whether a follower leads after all (``following`` tells),
            or can lead no more.
        inbound_seq: the last inbound event that was handed to the run.
        outcome: how the run ended.
        left: done when nothing of the run is left, its synchronous threads neither.
    """

    def __init__(self, execution: Execution, workflow: Mailbox, expires: float) -> None:
        self.execution = execution
        self.key = execution.key
        self.expires = expires
        self.lost: str | None = None
        self.draining = False
        self.writing = False
        self.resident = False
        self.paused = False
        self.seat: Seat
        self.following = not execution.leading
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.inbound_seq = max([execution.consumed_seq, *(e.seq for e in execution.inbound)])
        self.writer: EventWriter
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._workflow = workflow
        self._wanted_seq = self.inbound_seq
        self._reading: asyncio.Task[None] | None = None
        self.run: Run | None = None
        """Set on the workflow loop, before any of the calls below gets there."""

    def is_lost(self) -> bool:
        """Whether it is not ours any more."""
        return self.lost is not None

    def lose(self, reason: str) -> None:
        """It is not ours any more: stop the run, write nothing. Idempotent."""
        if self.lost is None:
            self.lost = reason
            self.settle()
            self.writer.abandon()
            self._workflow.post(self._cancel)

    def expire(self, now: float) -> None:
        """Lose it where its lease is over. An outcome that is known is tried on: the store tells
        whether it still counts."""
        if now >= self.expires and not self.writing and not self.following:
            self.lose("the state store was away for longer than the lease")

    def hand_back(self) -> None:
        """The process ends: stop the run, so that another worker may have the task."""
        self.draining = True
        self.settle()
        self._workflow.post(self._cancel)

    def settle(self) -> None:
        """A follower can lead no more, or it leads. Idempotent."""
        if not self.settled.done():
            self.settled.set_result(None)

    def continues(self, execution: Execution) -> bool:
        """Whether this follower's run, in progress or over, may stand for a later attempt."""
        return (
            self.following
            and not self.settled.done()
            and execution.snapshot == self.execution.snapshot
            and execution.base_index == self.execution.base_index
            and not (self.outcome.done() and isinstance(self.outcome.result(), Failed))
        )

    def adopt(self, execution: Execution, expires: float) -> None:
        """Stand for the attempt ``execution``, which this worker was given the lead of, or not."""
        self.key = execution.key
        if execution.leading:
            self.expires = expires
            self.following = False
            self.writer.lead(self.key)
            self.settle()

    def inbound(self, seq: int, store: LeaseStore) -> None:
        """Events up to ``seq`` were accepted: read and deliver those that are new."""
        self._wanted_seq = max(self._wanted_seq, seq)
        if self._wanted_seq > self.inbound_seq and self._reading is None and not self.is_lost():
            self._reading = asyncio.create_task(self._read(store))

    async def _read(self, store: LeaseStore) -> None:
        try:
            while self._wanted_seq > self.inbound_seq and not self.outcome.done():
                events = await persist(
                    lambda: store.read_inbound(self.key, self.inbound_seq),
                    give_up=lambda: self.is_lost() or self.outcome.done(),
                )
                if not events:
                    return
                self.inbound_seq = events[-1].seq
                self._workflow.post(self._deliver, events)
        except StoreError as error:
            # The next renewal tells of the events again.
            log.warning("task %s: its events could not be read: %s", self.key.task_id, error)
        finally:
            self._reading = None

    # -- workflow loop -------------------------------------------------------------------------
    def _deliver(self, events: Sequence[InboundEvent]) -> None:
        if self.run is not None:
            self.run.deliver(events)

    def _cancel(self) -> None:
        if self.run is not None:
            self.run.cancel()


class Leases:
    """Renews what is held with one call; learns from the answer of losses, cancels and events."""

    def __init__(self, store: LeaseStore, worker_id: str, lease: float) -> None:
        self._store = store
        self._worker_id = worker_id
        self._lease = lease
        self._held: dict[str, Attempt] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._held.values()))

    def get(self, task_id: str) -> Attempt | None:
        """The attempt of a task, where it is held here."""
        return self._held.get(task_id)

    def hold(self, attempt: Attempt) -> None:
        """Renew the attempt's lease from now on; an older one of the same task is over."""
        older = self._held.get(attempt.key.task_id)
        if older is not None:
            older.lose("superseded")
        self._held[attempt.key.task_id] = attempt

    def drop(self, attempt: Attempt) -> None:
        """Its end is written, or it is lost."""
        if self._held.get(attempt.key.task_id) is attempt:
            del self._held[attempt.key.task_id]

    async def keep(self) -> None:
        """Renew for ever, three times per lease, and more often while the store is away."""
        period = self._lease / RENEWALS_PER_LEASE
        backoff = Backoff(first=period / 8, most=period / 2)
        while True:
            if await self.renew():
                backoff = Backoff(first=period / 8, most=period / 2)
                pause = period
            else:
                pause = backoff.next()
            await asyncio.sleep(pause)

    async def renew(self) -> bool:
        """One renewal of all; false when the store did not answer."""
        attempts = [
            a
            for a in self._held.values()
            if a.lost is None and not (a.following and a.settled.done() and a.outcome.done())
        ]
        if not attempts:
            return True
        asked = time.monotonic()
        try:
            # Waiting longer would only delay noticing that a lease is over.
            async with asyncio.timeout(self._lease / RENEWALS_PER_LEASE):
                renewals = await self._store.renew(
                    self._worker_id, tuple(a.key for a in attempts), self._lease
                )
        except (StoreError, TimeoutError) as error:
            log.warning("leases could not be renewed: %s", error or type(error).__name__)
            self._give_up_expired(attempts)
            return False
        for attempt, renewal in zip(attempts, renewals, strict=True):
            self._apply(attempt, renewal, asked)
        return True

    def _apply(self, attempt: Attempt, renewal: Renewal, asked: float) -> None:
        if renewal.key != attempt.key:
            return  # it has come to stand for another attempt meanwhile
        if attempt.following:
            self._apply_to_follower(attempt, renewal)
            return
        if not renewal.alive:
            attempt.lose("cancelled" if renewal.cancelled else "superseded")
            return
        # Counted from the question, so that it never ends later here than in the store.
        attempt.expires = asked + self._lease
        attempt.inbound(renewal.inbound_seq, self._store)

    def _apply_to_follower(self, attempt: Attempt, renewal: Renewal) -> None:
        if renewal.cancelled:
            attempt.lose("cancelled")
            return
        if not renewal.live:
            attempt.settle()
        attempt.inbound(renewal.inbound_seq, self._store)

    def _give_up_expired(self, attempts: Sequence[Attempt]) -> None:
        now = time.monotonic()
        for attempt in attempts:
            attempt.expire(now)
