"""One attempt of a task: a run of the workflow with its inbound events, its waits and its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflows import Context, Workflow
from workflows.errors import WorkflowRuntimeError, WorkflowTimeoutError
from workflows.events import (
    Event,
    IdleReleasedEvent,
    InternalDispatchEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowIdleEvent,
)
from workflows.handler import WorkflowHandler
from workflows.runtime.types.results import AddWaiter, DeleteWaiter, StepWorkerResult
from workflows.runtime.types.step_id import StepId
from workflows.runtime.types.ticks import (
    TickAddEvent,
    TickIdleCheck,
    TickIdleRelease,
    TickPublishEvent,
    TickSessionStart,
    TickStepResult,
    TickWaiterTimeout,
    WorkflowTick,
)

from llamadeploy.exceptions import SignatureError
from llamadeploy.state_stores.records import Execution, InboundEvent, NewEvent
from llamadeploy.worker.calls import CallScope, current_scope
from llamadeploy.worker.clock import RunClock
from llamadeploy.worker.context_codec import ContextCodec, ContextError, Snapshot, Waiter
from llamadeploy.worker.contract import (
    Failed,
    Outcome,
    ServiceCaller,
    Sink,
    Stopped,
    Succeeded,
    Waiting,
)
from llamadeploy.worker.engine import ObservedRun, ObservedRuntime
from llamadeploy.worker.event_text import (
    STOP_DATA,
    STOP_TYPE,
    event_data,
    event_type,
    failed,
    result_text,
)
from llamadeploy.worker.inbound import Inbox
from llamadeploy.worker.task_input import start_event
from llamadeploy.worker.threads import ThreadGroup, current_group

log = logging.getLogger(__name__)

_serial = itertools.count()

_QUIET_TICKS = (TickIdleCheck, TickIdleRelease, TickSessionStart, TickPublishEvent)
"""Ticks that do not end an idle time."""


@dataclass(frozen=True, slots=True)
class Served:
    """What all runs of one workflow share.

    Attributes:
        workflow: as :func:`llamadeploy.worker.engine.observed` gives it.
        timeout: seconds of non-idle time per run, ``None`` for no limit.
        expects_outside: a step takes events that only come from outside.
        code_version: of the code that runs here.
    """

    workflow: Workflow
    runtime: ObservedRuntime
    codec: ContextCodec
    caller: ServiceCaller | None
    timeout: float | None
    expects_outside: bool
    code_version: str


class WorkflowRun:
    """Implements :class:`llamadeploy.worker.contract.Run`, and observes the run from inside."""

    def __init__(self, served: Served, execution: Execution, sink: Sink) -> None:
        self._served = served
        self._execution = execution
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._index = execution.base_index
        self._inbox = Inbox(execution.consumed_seq, early=execution.inbound)
        self._sent: dict[int, InboundEvent] = {}  # by id() of the event object, while in flight
        self._current: InboundEvent | None = None
        self._tick: WorkflowTick | None = None
        self._clock = RunClock(self._loop, served.timeout, execution.run_seconds, self._on_time_out)
        self._deadlines: dict[tuple[str, str], float | None] = {}
        self._overdue: list[tuple[str, str]] = []
        self._expiring: set[tuple[str, str]] = set()  # their time-outs are in the mailbox
        self._timers: list[asyncio.TimerHandle] = []
        self._patience: asyncio.TimerHandle | None = None
        self._threads = ThreadGroup()
        self._left_behind: set[asyncio.Task[Any]] = set()
        self._calls = CallScope(execution, served.caller, {})
        self._inside: ObservedRun | None = None
        self._verdict: Outcome | None = None
        self._closed = False
        self._active: dict[str, int] = {}
        self._task = self._loop.create_task(self._run(), name=f"run-{execution.task_id}")

    # -- for the worker ------------------------------------------------------------------------
    async def ended(self) -> Outcome:
        """The outcome as soon as it is known; threads may still be running."""
        return await asyncio.shield(self._task)

    async def outcome(self) -> Outcome:
        """The outcome, once what the run left behind has ended too."""
        outcome = await self.ended()
        if self._left_behind:
            await asyncio.wait(self._left_behind)
        await self._threads.settled()
        return outcome

    def deliver(self, events: Sequence[InboundEvent]) -> None:
        """Accepted events. Early ones are held, live ones go in at once."""
        if self._verdict is not None or self._task.done():
            return
        self._inbox.accept(events, live=self._inside is not None)
        self._offer_live()

    def cancel(self) -> None:
        """Stop as soon as possible."""
        if not self._task.done() and not isinstance(self._verdict, Stopped):
            self._end(Stopped())

    # -- the way of the run --------------------------------------------------------------------
    async def _run(self) -> Outcome:
        if self._verdict is not None:
            return self._verdict
        current_scope.set(self._calls)
        current_group.set(self._threads)
        run_id = f"{self._execution.task_id}/{self._execution.attempt}/{next(_serial)}"
        try:
            with self._served.runtime.observing(run_id, self) as inside:
                try:
                    handler = self._start(run_id)
                except _RefusedError as refused:
                    return refused.outcome
                self._inside = inside
                return await self._finish(handler)
        finally:
            self._clock.pause()
            for timer in (*self._timers, self._patience):
                if timer is not None:
                    timer.cancel()
            for task in self._left_behind:
                task.cancel()
            self._inside = None

    def _start(self, run_id: str) -> WorkflowHandler:
        resumed = self._execution.snapshot is not None
        context = self._resumed_context() if resumed else self._session_context()
        try:
            start = None if resumed else start_event(self._served.workflow, self._execution.input)
            handler = self._served.workflow.run(ctx=context, start_event=start, run_id=run_id)
        except Exception as error:
            raise _RefusedError(failed(error, retryable=False)) from error
        self._clock.resume()
        return handler

    async def _finish(self, handler: WorkflowHandler) -> Outcome:
        if self._execution.snapshot is not None and self._inside is not None:
            self._inside.send(TickIdleCheck())  # a resumed run tells that it is idle only if asked
        try:
            stop = await handler.stop_event_result()
        except asyncio.CancelledError:
            if _cancelling():
                raise
            cancelled = WorkflowRuntimeError("the run was cancelled by its own code")
            return self._verdict or failed(cancelled, retryable=False)
        except Exception as error:  # noqa: BLE001 - whatever the workflow's code raises
            self._close_stream()
            return self._verdict or failed(error, retryable=True)
        if self._verdict is not None:
            return self._verdict
        return self._succeeded(stop)

    def _succeeded(self, stop: StopEvent) -> Outcome:
        if isinstance(stop, IdleReleasedEvent):
            error = WorkflowRuntimeError("the run was released while idle by its own code")
            return failed(error, retryable=False)
        try:
            result = result_text(stop.result if type(stop) is StopEvent else stop)
        except Exception as error:  # noqa: BLE001 - a user's __str__ or result property
            return failed(error, retryable=True)
        assert self._inside is not None  # noqa: S101 - narrows the type; set until _run ends
        kept = self._execution.keep_context
        if not kept and self._inside.is_blank():
            return Succeeded(result)
        try:
            if kept:
                return Succeeded(result, self._served.codec.sign_context(self._inside))
            # Nobody reads it, but what cannot be saved fails in every session alike.
            self._served.codec.save(self._inside)
            return Succeeded(result)
        except ContextError as error:
            return failed(error, retryable=False)

    # -- what it starts from -------------------------------------------------------------------
    def _session_context(self) -> Context:
        if self._execution.context is None:
            return self._served.codec.new_context()
        try:
            return self._served.codec.read_context(self._execution.context)
        except (ContextError, SignatureError) as error:
            raise _RefusedError(failed(error, retryable=False)) from error

    def _resumed_context(self) -> Context:
        signed = self._execution.snapshot
        assert signed is not None  # noqa: S101 - narrows the type; the caller looked
        try:
            snapshot, context = self._served.codec.read_snapshot(signed)
        except (ContextError, SignatureError) as error:
            parked, here = self._execution.parked_code_version, self._served.code_version
            moved = parked and parked != here
            note = f" (parked by code version {parked}, this is {here})" if moved else ""
            raise _RefusedError(failed(error, retryable=False, message=f"{error}{note}")) from error
        self._inbox = Inbox(self._execution.consumed_seq, snapshot.held, self._inbox.held)
        self._calls = CallScope(self._execution, self._served.caller, snapshot.calls)
        current_scope.set(self._calls)
        self._restore_deadlines(snapshot.waiters)
        return context

    def _restore_deadlines(self, waiters: Sequence[Waiter]) -> None:
        now = time.time()
        for waiter in waiters:
            key = (waiter.step, waiter.waiter_id)
            self._deadlines[key] = waiter.deadline
            if waiter.deadline is None:
                continue
            if waiter.deadline <= now:
                self._overdue.append(key)
            else:
                delay = waiter.deadline - now
                self._timers.append(self._loop.call_later(delay, self._on_overdue, key))
        dated = {key: when for key, when in self._deadlines.items() if when is not None}
        if self._execution.wait_expired and dated and not self._overdue:
            self._overdue.append(min(dated, key=lambda key: dated[key]))

    # -- Observer: what happens inside ---------------------------------------------------------
    def ticked(self, tick: WorkflowTick) -> None:
        """See :class:`llamadeploy.worker.engine.Observer`."""
        self._tick = tick
        self._current = None
        if isinstance(tick, _QUIET_TICKS):
            return
        self._clock.resume()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if isinstance(tick, TickAddEvent):
            self._current = self._sent.pop(id(tick.event), None)
            if self._current is not None:
                self._inbox.taken(self._current.seq)  # unless an UnhandledEvent follows
                self._loop.call_soon(self._offer_live)
        elif isinstance(tick, TickStepResult):
            self._inbox.progressed()
            self._note_waiters(tick)
        elif isinstance(tick, TickWaiterTimeout):
            self._expiring.discard((str(tick.step_id), tick.waiter_id))

    def published(self, event: Event) -> None:
        """See :class:`llamadeploy.worker.engine.Observer`."""
        if isinstance(event, InternalDispatchEvent):
            self._internal(event)
        elif not self._closed and self._verdict is None:
            self._closed = isinstance(event, StopEvent)
            self._emit(event_type(event), event_data(event), last=self._closed)

    def task_started(self, task: asyncio.Task[Any]) -> None:
        """See :class:`llamadeploy.worker.engine.Observer`."""
        self._left_behind.add(task)
        task.add_done_callback(self._left_behind.discard)

    def _internal(self, event: InternalDispatchEvent) -> None:
        if isinstance(event, StepStateChanged):
            if event.step_state is StepState.RUNNING:
                self._active[event.name] = self._active.get(event.name, 0) + 1
            elif event.step_state is StepState.NOT_RUNNING:
                self._active[event.name] = self._active.get(event.name, 1) - 1
        elif isinstance(event, UnhandledEvent):
            if self._current is not None:
                self._inbox.declined(self._current)
                self._current = None
        elif isinstance(event, WorkflowIdleEvent) and isinstance(self._tick, TickIdleCheck):
            self._on_idle()

    def _note_waiters(self, tick: TickStepResult) -> None:
        completed = any(isinstance(item, StepWorkerResult) for item in tick.result)
        for item in tick.result:
            if isinstance(item, DeleteWaiter) and completed:
                self._deadlines.pop((str(tick.step_id), item.waiter_id), None)
            elif isinstance(item, AddWaiter):
                # A step that runs again while it waits does not begin its time anew.
                began = tick.stamped_at if tick.stamped_at is not None else time.time()
                deadline = None if item.timeout is None else began + item.timeout
                self._deadlines.setdefault((str(tick.step_id), item.waiter_id), deadline)

    # -- events from outside -------------------------------------------------------------------
    def _send(self, event: InboundEvent) -> bool:
        try:
            decoded = self._served.codec.read_event(event.event)
        except ContextError as error:
            log.warning("task %s: event %d dropped: %s", self._execution.task_id, event.seq, error)
            self._served.codec.dropped += 1
            self._inbox.taken(event.seq)
            return False
        assert self._inside is not None  # noqa: S101 - narrows the type; the callers looked
        self._sent[id(decoded)] = event
        self._inside.send(TickAddEvent(event=decoded))
        return True

    def _offer_live(self) -> None:
        if self._inside is not None and self._verdict is None:
            for event in self._inbox.offer_live():
                self._send(event)

    def _offer(self) -> bool:
        while (event := self._inbox.offer_at_idle()) is not None:
            if self._send(event):
                return True
        return False

    # -- idle ----------------------------------------------------------------------------------
    def _on_idle(self) -> None:
        if self._verdict is not None or self._inside is None:
            return
        if self._inbox.in_flight or self._expiring:
            return  # another idle follows
        if self._offer() or self._expire_waiters():
            return
        try:
            context = self._served.codec.save(self._inside)
        except ContextError as error:
            self._stay(str(error))
            return
        self._park(context)

    def _park(self, context: dict[str, Any]) -> None:
        """End this attempt as waiting, or as failed where nothing can ever continue the run.

        It waits for its waiters, or for an event that only comes from outside (a step takes a
        ``HumanResponseEvent``, or a type that no step makes). Where neither is the case but steps
        take other events, somebody might still send one: it waits for as long as it may run.
        """
        waiters = _pending(context, self._deadlines)
        self._deadlines = {(each.step, each.waiter_id): each.deadline for each in waiters}
        deadline = min((w.deadline for w in waiters if w.deadline is not None), default=None)
        if not waiters and not self._served.expects_outside:
            if self._execution.wait_expired or not self._may_take_events():
                self._end(_stuck())
                return
            remaining = self._clock.remaining
            deadline = None if remaining is None else time.time() + remaining
        snapshot = Snapshot(
            context=context, waiters=waiters, held=self._inbox.held, calls=self._calls.dump()
        )
        self._clock.pause()
        self._verdict = Waiting(
            self._served.codec.sign_snapshot(snapshot),
            self._inbox.last_seq,
            self._index,
            deadline,
            self._clock.used,
        )
        assert self._inside is not None  # noqa: S101 - narrows the type; _on_idle looked
        self._inside.send(TickIdleRelease())

    def _stay(self, reason: str) -> None:
        """The run waits in memory: with its clock stopped only if it waits for something."""
        self._sink.resident(reason)
        if self._deadlines or self._served.expects_outside:
            self._clock.pause()
        patience = self._execution.wait_timeout
        if self._patience is None and patience is not None:
            self._patience = self._loop.call_later(patience, self._on_patience_lost)

    def _may_take_events(self) -> bool:
        configs = self._served.workflow._step_configs().values()
        start = self._served.workflow.start_event_class
        return any(event is not start for config in configs for event in config.accepted_events)

    def _expire_waiters(self) -> bool:
        """Time out the waiters whose time has passed."""
        overdue, self._overdue = self._overdue, []
        for step, waiter_id in overdue:
            assert self._inside is not None  # noqa: S101 - narrows the type; _on_idle looked
            tick = TickWaiterTimeout(step_id=StepId.from_str(step), waiter_id=waiter_id)
            self._inside.send(tick)
            self._expiring.add((step, waiter_id))
            self._deadlines.pop((step, waiter_id), None)
        return bool(overdue)

    # -- timers --------------------------------------------------------------------------------
    def _on_overdue(self, key: tuple[str, str]) -> None:
        self._overdue.append(key)
        if self._inside is not None:
            self._inside.send(TickIdleCheck())  # answers that are there come first

    def _on_patience_lost(self) -> None:
        limit = self._execution.wait_timeout
        error = WorkflowTimeoutError(f"Nobody answered within {limit} seconds")
        self._end(failed(error, retryable=False))

    def _on_time_out(self) -> None:
        active = sorted(name for name, count in self._active.items() if count > 0)
        steps = f"Currently active steps: {', '.join(active)}" if active else "No steps active"
        error = WorkflowTimeoutError(
            f"Operation timed out after {self._served.timeout} seconds. {steps}"
        )
        self._end(failed(error, retryable=False))

    # -- the end -------------------------------------------------------------------------------
    def _end(self, verdict: Outcome) -> None:
        """Stop the run now; ``verdict`` is its outcome, unless it has come to its own end."""
        if isinstance(verdict, Failed):
            self._close_stream()
        self._verdict = verdict
        if self._inside is not None:
            self._inside.abort()

    def _close_stream(self) -> None:
        if not self._closed and not isinstance(self._verdict, Stopped):
            self._closed = True
            self._emit(STOP_TYPE, STOP_DATA, last=True)

    def _emit(self, kind: str, data: str, *, last: bool) -> None:
        emit = self._sink.emit_last if last else self._sink.emit
        emit(NewEvent(self._index, kind, data))
        self._index += 1


class _RefusedError(Exception):
    """The run could not be started."""

    def __init__(self, outcome: Failed) -> None:
        super().__init__(outcome.result)
        self.outcome = outcome


def _stuck() -> Failed:
    error = WorkflowRuntimeError(
        "The workflow stopped without a result: no step is running and none waits for an event. "
        "A step probably returned None, or an event that no other step takes"
    )
    return failed(error, retryable=False)


def _pending(
    context: dict[str, Any], deadlines: dict[tuple[str, str], float | None]
) -> tuple[Waiter, ...]:
    """The unresolved waiters of a context."""
    return tuple(
        Waiter(step, waiter["waiter_id"], deadlines.get((step, waiter["waiter_id"])))
        for step, worker in context.get("workers", {}).items()
        for waiter in worker["collected_waiters"]
        if waiter["resolved_event"] is None
    )


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
