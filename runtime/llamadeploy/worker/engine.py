"""Our seat inside the workflow library: a runtime that shows each tick and event of a run.

The library lets a runtime be plugged in for durable execution. This one runs in memory as the
default does, and hands what happens to an observer: synchronously and in the control loop's own
order, which no reader of the event stream gets (an ``UnhandledEvent`` does not say which event it
was). It also does not pay for the library's repeated inspection of the workflow nor for spans that
nobody listens to, and saves a run from its live state instead of replaying all its ticks.

One defect of the library is kept away (2.26.1): an answer resolves every waiter of its type again,
also those of the same step which have theirs already, so that a step which waits twice gets the
second answer twice and runs twice at once. See :class:`Answered`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import Dispatcher
from llama_index_instrumentation.event_handlers import NullEventHandler
from llama_index_instrumentation.span_handlers import NullSpanHandler
from workflows import Workflow
from workflows.context.context import Context
from workflows.context.internal_context import InternalContext
from workflows.context.serializers import BaseSerializer
from workflows.context.state_store import DictState, InMemoryStateStore
from workflows.errors import WorkflowRuntimeError
from workflows.events import Event, HumanResponseEvent, StartEvent, StepFailedEvent, StopEvent
from workflows.plugins.basic import (
    AsyncioAdapterQueues,
    BasicRuntime,
    InternalAsyncioAdapter,
    get_current_run_id,
)
from workflows.runtime.control_loop.runner import _ControlLoopRunner
from workflows.runtime.types.internal_state import (
    BrokerConfig,
    BrokerState,
    InternalStepWorkerState,
)
from workflows.runtime.types.named_task import (
    NamedTask,
    PendingStart,
    all_tasks,
    pick_highest_priority,
)
from workflows.runtime.types.plugin import (
    ExternalRunAdapter,
    InternalRunAdapter,
    RegisteredWorkflow,
    RunContext,
    Runtime,
    WaitForNextTaskResult,
    WorkflowRunFunction,
    consume_current_run,
    run_context,
)
from workflows.runtime.types.results import (
    RetryAttempt,
    StepWorkerOutput,
    StepWorkerState,
    StepWorkerWaiter,
)
from workflows.runtime.types.step_function import (
    StepWorkerFunction,
    as_step_worker_functions,
    create_workflow_run_function,
)
from workflows.runtime.types.ticks import TickAddEvent, WorkflowTick
from workflows.runtime.verbose import VerboseDecorator

_FROM_LIBRARY = (StartEvent, StepFailedEvent)

current_step: ContextVar[StepIdentity | None] = ContextVar("llamadeploy_step", default=None)
"""The step of ours that is running; workflows nested in it see it too."""


@dataclass(frozen=True, eq=False, slots=True)
class StepIdentity:
    """One invocation of a step. ``work_item`` stays the same when the step runs again, because of
    a retry or because what it waited for has come."""

    work_item: str


class Answered(Event):
    """What a waiter that has its answer waits for: nothing that ever comes."""


class Observer(Protocol):
    """Sees one run from inside the control loop. Must not block, nor raise."""

    def ticked(self, tick: WorkflowTick) -> None:
        """The tick was applied; what it publishes follows before the next tick."""
        ...

    def published(self, event: Event) -> None:
        """An event for the stream, or an internal one."""
        ...

    def task_started(self, task: asyncio.Task[Any]) -> None:
        """A task of the run was started (a step's, or one that reads the mailbox)."""
        ...


class ObservedRun:
    """The inside of one run."""

    __slots__ = ("_loop", "_queues", "adapter", "observer")

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.adapter: InternalRunAdapter | None = None
        self._queues: AsyncioAdapterQueues | None = None
        self._loop: _ControlLoopRunner | None = None

    def attach(self, queues: AsyncioAdapterQueues) -> None:
        """The run exists now."""
        self._queues = queues
        self.adapter = _ObservedAdapter(queues, self)

    def entered(self, loop: _ControlLoopRunner) -> None:
        """The run's control loop begins."""
        self._loop = loop

    def send(self, tick: WorkflowTick) -> None:
        """Put a tick into the run's mailbox."""
        if self._queues is not None:
            self._queues.receive_queue.put_nowait(tick)

    def abort(self) -> None:
        """Cancel the control loop, which cancels the steps."""
        if self._queues is not None:
            self._queues.complete.cancel()

    def save(self, serializer: BaseSerializer) -> dict[str, Any]:
        """What ``Context.to_dict()`` gives. Only while idle, or at the end."""
        assert self._loop is not None and self._queues is not None  # noqa: S101 - it has run
        saved = self._loop.state.to_serialized(serializer)
        if self._queues.state_store is not None:
            saved.state = self._queues.state_store.to_dict(serializer)
        return saved.model_dump(mode="python")

    def is_blank(self) -> bool:
        """Whether the run wrote no state and left no event behind: :meth:`save` would succeed."""
        assert self._loop is not None and self._queues is not None  # noqa: S101 - it has run
        store, state = self._queues.state_store, self._loop.state
        if not isinstance(store, InMemoryStateStore) or state.children:
            return False
        kept = store.checkpoint().state
        return (
            type(kept) is DictState
            and not kept._data
            and not any(map(_busy, state.workers.values()))
        )

    def shield_answered(self) -> None:
        """Keep the waiters that have their answer from being answered again."""
        for waiter in self._waiters():
            if waiter.resolved_event is not None:
                waiter.waiting_for_event = Answered
                waiter.requirements = {}
                waiter.has_requirements = False  # else a resume would run the step for it

    def awaited_types(self) -> Iterator[type[Event]]:
        """The types of the events for which the run waits."""
        return (waiter.waiting_for_event for waiter in self._waiters())

    def _waiters(self) -> Iterator[StepWorkerWaiter[Any]]:
        workers = () if self._loop is None else self._loop.state.workers.values()
        return (waiter for worker in workers for waiter in worker.collected_waiters)


class ObservedRuntime(BasicRuntime):
    """Runs workflows in memory; runs that were announced by :meth:`observing` are observed."""

    def __init__(self) -> None:
        super().__init__()
        self._registered: RegisteredWorkflow | None = None
        self._runs: dict[str, ObservedRun] = {}

    @contextmanager
    def observing(self, run_id: str, observer: Observer) -> Iterator[ObservedRun]:
        """Observe the run that is started with ``run_id`` inside the block."""
        run = self._runs[run_id] = ObservedRun(observer)
        try:
            yield run
        finally:
            del self._runs[run_id]

    def run_workflow(
        self,
        run_id: str,
        workflow: Workflow,
        init_state: BrokerState,
        start_event: StartEvent | None = None,
        serialized_state: dict[str, Any] | None = None,
        serializer: BaseSerializer | None = None,
    ) -> ExternalRunAdapter:
        """As the library does; the observed run can be sent to from now on."""
        adapter = super().run_workflow(
            run_id, workflow, init_state, start_event, serialized_state, serializer
        )
        run = self._runs.get(run_id)
        if run is not None:
            run.attach(self._queues[run_id])
        return adapter

    def register(self, workflow: Workflow) -> RegisteredWorkflow:
        """Once per runtime: it serves a single workflow, and the library asks twice per run."""
        if self._registered is None or self._registered.workflow is not workflow:
            steps = as_step_worker_functions(workflow)
            self._registered = RegisteredWorkflow(
                workflow=workflow,
                workflow_run_fn=self._run_function(workflow),
                steps={name: self._named(step) for name, step in steps.items()},
            )
        return self._registered

    def _run_function(self, workflow: Workflow) -> WorkflowRunFunction:
        """The library's way of a run, and the same without its span where nobody would hear it."""
        with_span = create_workflow_run_function(workflow, self._control_loop)

        async def run(
            init_state: BrokerState,
            start_event: StartEvent | None = None,
            tags: dict[str, Any] | None = None,
        ) -> StopEvent:
            if heard(workflow._dispatcher):
                return await with_span(init_state, start_event, tags)
            steps = workflow._runtime.get_or_register(workflow).steps
            context = Context._create_internal(workflow=workflow)
            adapter = workflow._runtime.get_internal_adapter(workflow)
            get_dispatcher().restore_propagation_context(tags or {})
            await asyncio.sleep(0)  # so that the task is known before anything can fail
            try:
                with run_context(
                    RunContext(workflow=workflow, run_adapter=adapter, context=context, steps=steps)
                ):
                    return await self._control_loop(start_event, init_state, adapter.run_id)
            finally:
                if isinstance(context._face, InternalContext):
                    context._face.cancel_background_tasks()

        return run

    async def _control_loop(
        self, start_event: Event | None, init_state: BrokerState | None, run_id: str
    ) -> StopEvent:
        """The library's control loop, known to the observed run."""
        parts = consume_current_run()
        state = init_state or BrokerState.from_workflow(parts.workflow)
        loop = _ControlLoopRunner(
            parts.workflow, parts.run_adapter, parts.context, parts.steps, state
        )
        run = self._runs.get(run_id)
        if run is not None:
            run.entered(loop)
        return await loop.run(start_event=start_event)

    def get_internal_adapter(self, workflow: Workflow) -> InternalRunAdapter:
        """The observed adapter, or for a run that a step starts on its own the library's."""
        run_id = get_current_run_id()
        run = None if run_id is None else self._runs.get(run_id)
        if run is None or run.adapter is None:
            return super().get_internal_adapter(workflow)
        return run.adapter

    def _named(self, step: StepWorkerFunction) -> StepWorkerFunction:
        """The step's function, telling who it is through :data:`current_step`."""

        async def run(
            state: StepWorkerState,
            step_name: str,
            event: Event,
            workflow: Workflow,
            bound_events: dict[str, Event] | None = None,
            retry: RetryAttempt = RetryAttempt(),  # noqa: B008 - the library's; immutable
        ) -> list[StepWorkerOutput]:
            # Each invocation has a task of its own, so there is nothing to reset. A run that a
            # step starts itself counts its work items on its own: it stays part of that step.
            if get_current_run_id() in self._runs:
                current_step.set(StepIdentity(f"{step_name}/{state.work_item_id}"))
            try:
                return list(await step(state, step_name, event, workflow, bound_events, retry))
            except (SystemExit, KeyboardInterrupt) as error:
                # Let through, it would end the loop of all runs.
                raise WorkflowRuntimeError(
                    f"step '{step_name}' raised {type(error).__name__} ({error}): a workflow "
                    "cannot end its worker's process"
                ) from error
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled the step: what it awaited was. The library would wait for ever.
                raise WorkflowRuntimeError(
                    f"step '{step_name}' awaited something that was cancelled"
                ) from error

        return run


class _ObservedAdapter(InternalAsyncioAdapter):
    def __init__(self, queues: AsyncioAdapterQueues, run: ObservedRun) -> None:
        super().__init__(queues)
        self._run = run
        self._observer = run.observer

    async def write_to_event_stream(self, event: Event) -> None:
        self._observer.published(event)

    async def on_tick(self, tick: WorkflowTick) -> None:
        # Ticks are not kept for a replay: :meth:`ObservedRun.save` needs none.
        if isinstance(tick, TickAddEvent):
            self._run.shield_answered()
        self._observer.ticked(tick)

    async def wait_for_next_task(
        self,
        running: list[NamedTask],
        pending: list[PendingStart],
        timeout: float | None = None,
    ) -> WaitForNextTaskResult:
        # As the library does, except that the tasks are known before the first wait: a run that is
        # cancelled in it would leave them running.
        started = [each.start(asyncio.create_task(each.coro)) for each in pending]
        for each in started:
            self._observer.task_started(each.task)
        named = [*running, *started]
        if not named:
            return WaitForNextTaskResult(None, started)
        done, _ = await asyncio.wait(
            all_tasks(named), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        completed = pick_highest_priority(named, done) if done else None
        return WaitForNextTaskResult(completed, started)


def _busy(worker: InternalStepWorkerState) -> bool:
    """Whether a step has events or waiters."""
    return bool(
        worker.queue
        or worker.in_progress
        or worker.collected_events
        or worker.static_collect_events
        or worker.collected_waiters
    )


_DEAF = (NullSpanHandler, NullEventHandler)


class _Spans:
    """The library's dispatcher of spans, except that a span which nobody listens to is not made:
    wrapping and inspecting a step for it costs as much as running a short one."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    def span(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As ``Dispatcher.span``; who begins to listen is heard from the next step on."""
        return self._dispatcher.span(function) if heard(self._dispatcher) else function


def heard(dispatcher: Dispatcher) -> bool:
    """Whether anybody listens to spans or events of the dispatcher."""
    each: Dispatcher | None = dispatcher
    while each is not None:
        for handler in (*each.span_handlers, *each.event_handlers):
            if type(handler) not in _DEAF:
                return True
        each = each.parent if each.propagate else None
    return False


def observed(workflow: Workflow, runtime: ObservedRuntime) -> Workflow:
    """The same workflow, run by ``runtime`` and without its own time-out.

    Not a copy: both share one ``__dict__``, so what a step writes to ``self`` is seen by whoever
    holds the original. Nor is the original changed: run directly it keeps runtime and time-out.
    """
    cls = type(workflow)
    spans = _Spans(workflow._dispatcher)
    used: Runtime = VerboseDecorator(runtime) if workflow._verbose else runtime
    steps: dict[int, Any] = {}
    brokers: dict[int, Any] = {}

    def get_steps(self: Any) -> Any:
        version = cls._step_functions_version
        if version not in steps:
            steps[version] = cls._get_steps(self)
        return steps[version]

    def get_broker_config(self: Any) -> Any:
        version = cls._step_functions_version
        if version not in brokers:
            brokers[version] = BrokerConfig.from_steps(self._step_configs(), None)
        return brokers[version]

    names = {
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "_timeout": property(lambda self: None),
        "_runtime": property(lambda self: used),
        "_dispatcher": property(lambda self: spans),
        "_get_steps": get_steps,
        "_get_broker_config": get_broker_config,
    }
    make: Any = type(cls)  # the class's own metaclass
    alias = make(cls.__name__, (cls,), names)
    alias._step_functions = cls._step_functions
    seen: Workflow = object.__new__(alias)
    seen.__dict__ = workflow.__dict__
    return seen


def expects_outside_events(workflow: Workflow) -> bool:
    """Whether a step takes events that no step makes: a ``HumanResponseEvent``, or another."""
    configs = workflow._step_configs().values()
    made = {made for config in configs for made in config.return_types}
    for config in configs:
        for accepted in config.accepted_events:
            if not isinstance(accepted, type) or issubclass(
                accepted, (StartEvent, StepFailedEvent)
            ):
                continue
            if issubclass(accepted, HumanResponseEvent) or accepted not in made:
                return True
    return False
