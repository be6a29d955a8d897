"""Creating tasks, waiting for their results, sending them events, cancelling them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from llamadeploy.control_plane.services import Services
from llamadeploy.control_plane.sessions import NO_SESSION, Sessions
from llamadeploy.control_plane.validation import (
    body_hash,
    check_arguments,
    check_event,
    check_id,
    derived_id,
)
from llamadeploy.exceptions import ConfigurationError, ConflictError, NotFoundError
from llamadeploy.messages import ActionTypes
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.orchestration.router import Router
from llamadeploy.state_stores.base import Follower, StateStore
from llamadeploy.state_stores.records import (
    Created,
    InboundOutcome,
    NewTask,
    TaskQuery,
    TaskRecord,
)
from llamadeploy.types import (
    CancelOutcome,
    EventDefinition,
    SessionPolicy,
    TaskDefinition,
    TaskResult,
    TaskState,
    TaskStatus,
    generate_id,
)

log = logging.getLogger(__name__)

NO_TASK = "Task not found"

_FOLLOW_SECONDS = 30.0
"""A waiter looks at the store this often even if nothing woke it (another replica's repair)."""

_HEARING_SECONDS = 2.0
"""What those who wait get to read the end of tasks that were all ended."""

_UNFINISHED = TaskQuery(states=tuple(state for state in TaskState if not state.terminal))


class Tasks:
    """Use cases about tasks.

    Args:
        router: decides where tasks go; ``None`` for the simple rule (the named service).
    """

    def __init__(
        self,
        store: StateStore,
        outbox: Outbox,
        services: Services,
        sessions: Sessions,
        router: Router | None,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._services = services
        self._sessions = sessions
        self._router = router
        self._waiters = 0
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self.closed: str | None = None
        """Why no task is taken any more."""

    async def create(
        self,
        task: TaskDefinition,
        *,
        session_id: str | None,
        new_session: bool = False,
        honour_task_id: bool = True,
        idempotency_key: str | None = None,
        passing: bool = False,
    ) -> Created:
        """Store a task, unpublished; see :meth:`ControlPlane.create_task`.

        Args:
            passing: its session is deleted when it succeeds: its context is not kept.
        """
        if self.closed is not None:
            raise ConflictError(self.closed)
        if session_id and task.session_id and task.session_id != session_id:
            raise ConfigurationError(
                f"Wrong task definition: task.session_id is {task.session_id} "
                f"but should be {session_id}"
            )
        task_id = _task_id(task, honour_task_id, idempotency_key)
        new_session = new_session or session_id is None
        given_session = session_id
        if session_id is None:
            session_id = derived_id("session", task_id) if idempotency_key else generate_id()
        check_id(session_id, "session_id")
        new = NewTask(
            task_id=task_id,
            session_id=session_id,
            service="",
            input=task.input,
            body_hash=body_hash(task.input, task.service_id or "", given_session or ""),
            new_session=new_session,
            # An orchestrator may send the task to the same service again, with what it kept there.
            detached_context=passing and self._router is None,
        )
        return await self._insert(new, task)

    async def publish(self, created: Created) -> None:
        """Publish what :meth:`create` stored; the repair loop does where nobody else did."""
        await self._outbox.publish(created.publish)

    async def publish_and_wait(self, created: Created) -> TaskRecord:
        """Publish what :meth:`create` stored, and return the task when it has ended.

        Raises:
            NotFoundError: it was forgotten meanwhile.
        """
        with self._store.follow(created.task_id) as follower:
            await self._outbox.publish(created.publish)
            # Where nobody knew of it before it has not ended: no need to look at once.
            record = await self._followed(
                created.task_id, follower, None, unfinished=not created.existed
            )
        self._outbox.started(created.task_id)
        assert record is not None  # noqa: S101 - without a deadline it returns a record
        self._outbox.started(created.task_id)  # and no row of it is left
        return record

    async def _insert(self, new: NewTask, task: TaskDefinition) -> Created:
        if self._router is None:
            check_arguments(task.input, "body", "input")
            service = self._services.choose(task.service_id)
            return await self._store.create_task(await self._with_options(new, service, task.input))
        if await self._store.get_task(new.task_id) is not None:
            # A repeat: the orchestrator has decided, and the store compares the bodies.
            return await self._store.create_task(await self._with_options(new, "", task.input))
        known = await self._store.get_session(new.session_id)
        if known is None:
            if not new.new_session:
                raise NotFoundError(NO_SESSION)
            await self._store.create_session(new.session_id)
        definition = task.model_copy(update={"task_id": new.task_id, "session_id": new.session_id})
        state = known.state if known is not None else {}
        service, text, changes = await self._router.first(definition, state)
        if changes:
            await self._store.merge_session_state(new.session_id, changes)
        return await self._store.create_task(await self._with_options(new, service, text))

    async def _with_options(self, new: NewTask, service: str, text: str) -> NewTask:
        options = await self._services.options(service)
        refusal = self._services.refusal(service)
        # What was accepted before is found by a repeat all the same.
        if refusal is not None and await self._store.get_task(new.task_id) is None:
            raise NotFoundError(refusal)
        return NewTask(
            task_id=new.task_id,
            session_id=new.session_id,
            service=service,
            input=text,
            body_hash=new.body_hash,
            new_session=new.new_session and self._router is None,
            policy=options.session_policy,
            max_retries=options.max_retries,
            retry_on_error=options.retry_on_error,
            queue_timeout=options.queue_timeout,
            wait_timeout=options.wait_timeout,
            orchestrated=self._router is not None,
            detached_context=(
                new.detached_context or options.session_policy is SessionPolicy.PARALLEL
            ),
        )

    async def wait(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """The finished task; ``None`` after ``timeout`` seconds.

        Raises:
            NotFoundError: no such task.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._store.follow(task_id) as follower:
            return await self._followed(task_id, follower, deadline)

    async def _followed(
        self,
        task_id: str,
        follower: Follower,
        deadline: float | None,
        *,
        unfinished: bool = False,
    ) -> TaskRecord | None:
        self._waiters += 1
        self._nobody_waits.clear()
        try:
            if unfinished and (ended := await follower.end(_FOLLOW_SECONDS)) is not None:
                return ended
            return await self._follow_to_end(task_id, follower, deadline)
        finally:
            self._waiters -= 1
            if not self._waiters:
                self._nobody_waits.set()

    async def _follow_to_end(
        self, task_id: str, follower: Follower, deadline: float | None
    ) -> TaskRecord | None:
        while True:
            record = await self._store.get_task(task_id)
            if record is None:
                raise NotFoundError(NO_TASK)
            if record.state.terminal:
                return record
            left = _FOLLOW_SECONDS
            if deadline is not None:
                left = min(left, deadline - time.monotonic())
            if left <= 0:
                return None
            ended = await follower.end(left)
            if ended is not None:
                return ended

    async def get(self, session_id: str, task_id: str) -> TaskRecord:
        """Raises NotFoundError: no such session, or no such task in it."""
        record = await self._store.get_task(task_id)
        if record is None or record.session_id != session_id:
            if await self._store.get_session(session_id) is None:
                raise NotFoundError(NO_SESSION)
            raise NotFoundError(NO_TASK)
        return record

    async def session_of(self, task_id: str, session_id: str | None) -> str:
        """The session of a task; where one is named it must be that one.

        Raises:
            NotFoundError: no such session, or no such task in it.
        """
        if session_id is not None:
            return (await self.get(session_id, task_id)).session_id
        record = await self._store.get_task(task_id)
        if record is None:
            raise NotFoundError(NO_TASK)
        return record.session_id

    async def definitions(self, session_id: str | None = None) -> list[TaskDefinition]:
        """Oldest first.

        Raises:
            NotFoundError: no such session.
        """
        await self._sessions.settled()
        return await self._store.list_tasks(session_id)

    async def current(self, session_id: str) -> TaskDefinition | None:
        """The session's newest task.

        Raises:
            NotFoundError: no such session.
        """
        session = await self._sessions.get(session_id)
        task_id = session.current_task_id
        record = await self._store.get_task(task_id) if task_id else None
        if record is None:
            return None
        return TaskDefinition(
            task_id=record.task_id,
            session_id=session_id,
            service_id=record.service,
            input=await self._store.get_input(record.task_id) or "",
        )

    async def send_event(
        self, session_id: str, task_id: str, event: EventDefinition
    ) -> InboundOutcome:
        """Store an event for a task and wake it; a finished task takes no event, see ``state``.

        Raises:
            NotFoundError: no such session or task.
            InvalidFieldError: the event is not the JSON of an object.
        """
        check_event(event.event_obj_str, "body", "event_obj_str")
        await self.get(session_id, task_id)
        outcome = await self._store.append_inbound(task_id, event.event_obj_str)
        if outcome.state.terminal:
            log.info("an event came too late: task %s has %s already", task_id, outcome.state)
        await self._outbox.publish(outcome.publish)
        if outcome.owner is not None:
            nudge = ((task_id, outcome.owner),)
            await self._outbox.nudge(ActionTypes.SEND_EVENT, nudge, outcome.seq)
        return outcome

    async def cancel(self, session_id: str, task_id: str, reason: str) -> CancelOutcome:
        """End the task unless it has its result already; its calls of other services end too.

        Raises:
            NotFoundError: no such session or task.
        """
        await self.get(session_id, task_id)
        cancelled = await self._store.cancel(task_id, reason)
        await self._outbox.publish(cancelled.publish)
        await self._outbox.nudge(ActionTypes.CANCEL_TASK, cancelled.nudge)
        return CancelOutcome(
            task_id=task_id,
            state=cancelled.state,
            outcome="cancelled" if cancelled.changed else "already_finished",
        )

    async def find(self, query: TaskQuery) -> list[TaskRecord]:
        """Tasks as they stand, the newest first."""
        await self._sessions.settled()
        return await self._store.find_tasks(query)

    async def end_all(self, reason: str, service: str | None = None) -> int:
        """Cancel every unfinished task (of one service) and let whoever waits hear of it. Returns
        how many."""
        ended = 0
        query = msgspec.structs.replace(_UNFINISHED, service=service)
        while records := await self._store.find_tasks(query):
            for record in records:
                try:
                    cancelled = await self._store.cancel(record.task_id, reason)
                except NotFoundError:
                    continue  # its session was deleted meanwhile
                ended += cancelled.changed
                if service is not None:
                    # Its session, or a caller's, goes on with another service.
                    await self._outbox.publish(cancelled.publish)
                await self._outbox.nudge(ActionTypes.CANCEL_TASK, cancelled.nudge)
        if service is not None:
            return ended  # the control plane goes on: whoever waits hears of it
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nobody_waits.wait(), _HEARING_SECONDS)
        return ended


def result_of(record: TaskRecord) -> TaskResult | None:
    """The result of a finished task, else ``None``."""
    if not record.state.terminal:
        return None
    return TaskResult(task_id=record.task_id, result=record.result or "", data=record.data)


def status_of(record: TaskRecord) -> TaskStatus:
    """Where the task stands, for people."""
    return TaskStatus(
        task_id=record.task_id,
        session_id=record.session_id,
        service_id=record.service,
        state=record.state,
        attempts=record.attempt,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        event_count=record.event_count,
        detail=_detail(record),
        wait_deadline=record.wait_deadline,
        resident=record.resident,
        runs=record.runs,
    )


def _detail(record: TaskRecord) -> str:
    if record.state is TaskState.WAITING:
        return "waits for an event; no worker is held"
    if record.state is TaskState.RUNNING and record.owner:
        if record.resident:
            return f"waits in the memory of {record.owner}: {record.resident}"
        return f"runs on {record.owner}"
    if record.state is TaskState.FAILED:
        return record.result or ""
    return ""


def _task_id(task: TaskDefinition, honoured: bool, idempotency_key: str | None) -> str:
    if idempotency_key is not None:
        return derived_id("idempotency-key", idempotency_key)
    if honoured:
        check_id(task.task_id, "body", "task_id")
        return task.task_id
    return generate_id()
