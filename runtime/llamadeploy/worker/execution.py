"""Carries out one attempt: from the store's leave to run until its end is written."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llamadeploy.exceptions import StoreError, StoreUnavailableError
from llamadeploy.state_stores.records import Finished, NewEvent
from llamadeploy.worker.backoff import persist
from llamadeploy.worker.contract import (
    Failed,
    Outcome,
    Run,
    Runner,
    Stopped,
    Succeeded,
    Waiting,
)
from llamadeploy.worker.gate import ExclusiveGate
from llamadeploy.worker.leases import Attempt
from llamadeploy.worker.loops import Mailbox
from llamadeploy.worker.operations import WorkerStore
from llamadeploy.worker.outcomes import completion, failure, park_request

log = logging.getLogger(__name__)

T = TypeVar("T")


class Output:
    """The sink of one run; called on the workflow loop."""

    def __init__(
        self,
        attempt: Attempt,
        gate: ExclusiveGate,
        io: Mailbox,
        note: Callable[[Attempt, str], None],
    ) -> None:
        self.emit = attempt.writer.emit
        self.emit_last = attempt.writer.emit_last
        self._attempt = attempt
        self._gate = gate
        self._io = io
        self._note = note

    def resident(self, reason: str) -> None:
        """See :class:`llamadeploy.worker.contract.Sink`."""
        self._io.post(self._stay, reason)

    def _stay(self, reason: str) -> None:
        log.warning("task %s waits in memory: %s", self._attempt.key.task_id, reason)
        if self._attempt.resident or self._attempt.outcome.done():
            return
        self._attempt.resident = True
        self._note(self._attempt, reason)
        if self._attempt.execution.alone:
            self._gate.leave_alone()
        else:
            self._gate.pause()


class Executor:
    """Runs attempts on the workflow loop and writes their ends from the I/O loop.

    Args:
        over: told of an attempt whose end was written, or never will be.
        stand_by: returns once it is known whether a follower's end counts.
    """

    def __init__(
        self,
        runner: Runner,
        store: WorkerStore,
        gate: ExclusiveGate,
        counts: Counter[str],
        io: Mailbox,
        workflow: Mailbox,
        over: Callable[[Attempt], None],
        stand_by: Callable[[Attempt], Awaitable[None]],
    ) -> None:
        self._over = over
        self._stand_by = stand_by
        self._runner = runner
        self._store = store
        self._gate = gate
        self._counts = counts
        self._io = io
        self._workflow = workflow
        self._watching: set[asyncio.Task[None]] = set()
        self._noting: set[asyncio.Task[None]] = set()

    async def carry_out(self, attempt: Attempt) -> None:
        """Run, write the end, and return when nothing of the run is left. Inside the gate."""
        if not attempt.execution.alone:
            await self._run(attempt)
            return
        self._gate.leave()
        try:
            await self._gate.enter_alone()
            try:
                await self._run(attempt)
            finally:
                if not (attempt.resident or attempt.paused):
                    self._gate.leave_alone()
        finally:
            self._gate.resume()

    # -- running -------------------------------------------------------------------------------
    async def _run(self, attempt: Attempt) -> None:
        try:
            if attempt.lost is not None or attempt.draining:
                await self._end(attempt, Stopped())
                return
            self._workflow.post(self._begin, attempt)
            await self._end(attempt, await attempt.outcome)
            # Whoever waits for the result has it. The slot stays taken by the threads of the run.
            await attempt.left
        finally:
            self._over(attempt)
            if attempt.resident and not attempt.execution.alone:
                self._gate.resume()

    async def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        try:
            await self._record(attempt, outcome)
        except StoreUnavailableError as error:
            self._counts["stale"] += 1
            log.error("task %s: its end was not written: %s", attempt.key.task_id, error)
        self._over(attempt)

    def _begin(self, attempt: Attempt) -> None:
        """On the workflow loop. The run exists when this returns: where the loop was blocked, an
        event or a cancel for it is next in line."""
        try:
            attempt.run = self._runner.start(
                attempt.execution, Output(attempt, self._gate, self._io, self._note_resident)
            )
        except Exception as error:  # noqa: BLE001 - told and logged by _fault
            self._fault(attempt, error)
            self._io.post(_settle, attempt.left, None)
            return
        task = self._workflow.loop.create_task(self._watch(attempt, attempt.run))
        self._watching.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._watching.discard)

    async def _watch(self, attempt: Attempt, run: Run) -> None:
        """On the workflow loop."""
        try:
            self._io.post(_settle, attempt.outcome, await run.ended())
            await run.outcome()
        except Exception as error:  # noqa: BLE001 - told and logged by _fault
            self._fault(attempt, error)
        finally:
            self._io.post(_settle, attempt.left, None)

    def _fault(self, attempt: Attempt, error: Exception) -> None:
        """A fault of the runner, not of the workflow; the task must end all the same."""
        log.error("task %s: the runner failed", attempt.key.task_id, exc_info=error)
        self._io.post(_settle, attempt.outcome, failure(error))

    def _note_resident(self, attempt: Attempt, reason: str) -> None:
        """On the I/O loop, beside the run."""
        if attempt.following:
            return
        task = asyncio.create_task(self._tell_resident(attempt, reason))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _tell_resident(self, attempt: Attempt, reason: str) -> None:
        def over() -> bool:
            return attempt.is_lost() or attempt.outcome.done()

        try:
            await persist(lambda: self._store.note_resident(attempt.key, reason), give_up=over)
        except StoreError as error:
            log.warning("task %s: status does not say why it waits: %s", attempt.key.task_id, error)

    # -- writing -------------------------------------------------------------------------------
    async def _record(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt.following and not isinstance(outcome, Stopped):
            await self._stand_by(attempt)
        if attempt.following:
            attempt.writer.abandon()
            self._counts["followed"] += 1
            return
        tail = await attempt.writer.tail()
        if isinstance(outcome, Stopped) or attempt.lost is not None:
            await self._give_up(attempt)
            return
        # From here on the end is known and worth more than the lease: it is written as soon as the
        # store answers, unless the store says that the attempt is not the current one any more.
        attempt.writing = True
        if attempt.writer.error is not None:
            outcome = failure(attempt.writer.error)
        try:
            reply = await self._write(attempt, outcome, tail)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            log.exception("task %s: its end was refused", attempt.key.task_id)
            outcome = failure(error)
            reply = await self._write(attempt, outcome, ())
        if reply.accepted:
            self._counts[type(outcome).__name__.lower()] += 1
        else:
            self._counts["stale"] += 1
            log.warning("task %s: attempt %d came too late", *_names(attempt))

    async def _write(
        self, attempt: Attempt, outcome: Succeeded | Failed | Waiting, tail: tuple[NewEvent, ...]
    ) -> Finished:
        if isinstance(outcome, Waiting):
            park = park_request(attempt.key, outcome, tail, self._runner.code_version)
            return await persist(lambda: self._store.park(park), give_up=attempt.is_lost)
        end = completion(attempt.key, outcome, tail)
        return await persist(lambda: self._store.finish(end), give_up=attempt.is_lost)

    async def _give_up(self, attempt: Attempt) -> None:
        if attempt.lost is None and attempt.draining:
            await self.release(attempt)
            return
        self._counts["stopped"] += 1
        log.info("task %s: attempt %d stopped: %s", *_names(attempt), attempt.lost)

    async def release(self, attempt: Attempt) -> None:
        """Hand the task back to the store, without counting a retry; not what others lead."""
        if attempt.following:
            return
        self._counts["released"] += 1
        await persist(lambda: self._store.release(attempt.key), give_up=attempt.is_lost)


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _names(attempt: Attempt) -> tuple[str, int]:
    return attempt.key.task_id, attempt.key.attempt
