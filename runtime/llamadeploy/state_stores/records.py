"""The records that go in and out of a state store, and over the wire between worker and store.

All are msgspec structs: immutable, strictly typed, encoded as JSON in microseconds. Unknown fields
are ignored on decoding, so that neighbouring releases understand each other. Times are seconds
since the epoch unless a name says otherwise.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llamadeploy.types import SessionPolicy, TaskState


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task to be stored.

    Attributes:
        input: the run's arguments, a JSON object in a string.
        body_hash: identifies what the client sent; the same id with another hash is a conflict.
        new_session: create ``session_id`` in the same step (it must not exist).
        max_retries: how often a crashed start or a lost lease is retried.
        queue_timeout: seconds it may wait unstarted, ``None`` for ever.
        orchestrated: a custom orchestrator decides what follows a result; without it the first
            result is the task's result.
        parent: the task that called for this one; ``ancestors`` starts with the eldest.
        detached_context: run on a copy of the session's context that is never written back and
            without the session's lock (policy ``parallel``, calls into an ancestor, and runs whose
            session is deleted when they succeed).
    """

    task_id: str
    session_id: str
    service: str
    input: str
    body_hash: str = ""
    new_session: bool = False
    policy: SessionPolicy = SessionPolicy.ENQUEUE
    max_retries: int = 3
    retry_on_error: bool = False
    queue_timeout: float | None = None
    wait_timeout: float | None = None
    orchestrated: bool = False
    parent: str | None = None
    ancestors: tuple[str, ...] = ()
    detached_context: bool = False


class OutboxRow(msgspec.Struct, frozen=True):
    """A message that must reach the queue: publish it, then ``outbox_done([row_id])``.

    Attributes:
        row_id: key for ``outbox_done``.
        message_id: the queue message's identity, ``<task>/<dispatch>``; a repeat has the same one.
        kind: ``run`` goes to the service's topic, ``route`` to the control plane's.
        input: the run's arguments, or ``None`` when they are over ``INLINE_INPUT_LIMIT``.
    """

    row_id: int
    message_id: str
    kind: str
    task_id: str
    session_id: str
    service: str
    input: str | None
    ancestors: tuple[str, ...] = ()


INLINE_INPUT_LIMIT = 128 * 1024
"""Bytes of input that may travel in a message; larger ones go by store reference."""


class Created(msgspec.Struct, frozen=True):
    """Outcome of ``create_task``: ``publish`` is what the creator should publish at once."""

    task_id: str
    session_id: str
    existed: bool = False
    publish: tuple[OutboxRow, ...] = ()


class ExecutionKey(msgspec.Struct, frozen=True):
    """One attempt of a task; what carries an attempt that is not the current one is dropped."""

    task_id: str
    attempt: int


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A worker asks to run a task.

    Attributes:
        execution_id: unique per delivery that is tried, so that a repeated request (its answer was
            lost) gets the same attempt again.
        lease: seconds after which the attempt counts as lost unless renewed.
        follow: of a worker that also runs what another one leads (broadcast): the number of the
            delivery's dispatch, see ``OutboxRow.message_id``. 0: of any other.
    """

    task_id: str
    execution_id: str
    worker_id: str
    lease: float
    code_version: str = ""
    follow: int = 0


class InboundEvent(msgspec.Struct, frozen=True):
    """An event sent to a task; ``seq`` counts from 1 in the order of acceptance."""

    seq: int
    event: str


class Execution(msgspec.Struct, frozen=True, kw_only=True, tag="execution"):
    """Leave to run: everything the attempt starts from.

    Attributes:
        context: the session's signed context for this service, or ``None``.
        snapshot: the signed context of a parked or interrupted run of this very task; when set it
            is resumed, and ``input`` and ``context`` are not used.
        base_index: the first stream index this attempt writes (those below are inherited).
        inbound: accepted events that the snapshot has not consumed, by ``seq``.
        consumed_seq: what the snapshot has consumed.
        parked_code_version: ``code_version`` of the worker that parked the snapshot.
        wait_expired: the park's deadline has passed: inject the waiter's time-out.
        run_seconds: non-idle seconds that earlier attempts of the same run have used.
        alone: suspected of killing its worker: run while nothing else runs in the process.
        keep_context: whether a success writes the context back (else do not send one).
        leading: false: another worker leads the attempt, only what that one writes counts. Write
            nothing, until a later dispatch of the task gives the lead.
    """

    task_id: str
    session_id: str
    service: str
    attempt: int
    input: str
    context: str | None = None
    snapshot: str | None = None
    base_index: int = 0
    inbound: tuple[InboundEvent, ...] = ()
    consumed_seq: int = 0
    parked_code_version: str = ""
    wait_expired: bool = False
    run_seconds: float = 0.0
    alone: bool = False
    keep_context: bool = True
    wait_timeout: float | None = None
    ancestors: tuple[str, ...] = ()
    leading: bool = True

    @property
    def key(self) -> ExecutionKey:
        """The attempt's key."""
        return ExecutionKey(self.task_id, self.attempt)


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """Do not run: ``reason`` is ``unknown``, ``terminal``, ``leased`` or ``not_due``.

    The delivery is acknowledged all the same: what still has to happen is in the store.
    """

    reason: str


StartReply = Execution | Dropped


class Renewal(msgspec.Struct, frozen=True):
    """Answer to a renewed lease.

    Attributes:
        alive: false: the attempt is not the current one any more; stop it, its output is dropped.
        cancelled: the task was cancelled (``alive`` is false too).
        inbound_seq: the last accepted inbound event, so that a lost nudge is noticed.
        live: some attempt of the task runs, or is about to: who follows it may come to lead.
    """

    key: ExecutionKey
    alive: bool
    cancelled: bool = False
    inbound_seq: int = 0
    live: bool = False


class NewEvent(msgspec.Struct, frozen=True):
    """An event of a run. ``data`` is the JSON of ``model_dump()`` as clients of 0.8.1 get it."""

    index: int
    type: str
    data: str


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event in the task's log; ``seq`` grows over all attempts, ``index`` within one run."""

    seq: int
    attempt: int
    index: int
    type: str
    data: str


class ParkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Put a waiting run away.

    Attributes:
        snapshot: the signed context, taken while the run was idle.
        consumed_seq: inbound events up to here are inside the snapshot.
        next_index: the index the resumed attempt continues with (its ``base_index``).
        deadline: when the wait ends by itself, ``None`` for never.
        events: the tail of the stream that was not appended yet.
    """

    key: ExecutionKey
    snapshot: str
    consumed_seq: int
    next_index: int
    deadline: float | None = None
    code_version: str = ""
    run_seconds: float = 0.0
    events: tuple[NewEvent, ...] = ()


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt.

    Attributes:
        state: ``succeeded`` or ``failed`` (``cancelled`` is written by ``cancel`` alone).
        data: see :class:`llamadeploy.types.TaskResult`.
        events: the tail of the stream that was not appended yet; the result closes the stream.
        context: the session's new signed context (success only).
        retryable: whether ``retry_on_error`` may apply to a failure.
    """

    key: ExecutionKey
    state: TaskState
    result: str
    data: dict[str, Any] = {}
    events: tuple[NewEvent, ...] = ()
    context: str | None = None
    retryable: bool = True


class Finished(msgspec.Struct, frozen=True):
    """Outcome of ``finish``, ``park`` and ``release``.

    Attributes:
        accepted: false: the attempt was not the current one, nothing was changed.
        publish: rows that are due now (the session's next task, a route, a resume); the caller
            publishes them and calls ``outbox_done``.
    """

    accepted: bool
    publish: tuple[OutboxRow, ...] = ()


class InboundOutcome(msgspec.Struct, frozen=True):
    """Outcome of ``append_inbound``.

    Attributes:
        owner: the worker that runs the task now and should be nudged, else ``None``.
        publish: the resume row of a parked task.
    """

    seq: int
    state: TaskState
    owner: str | None = None
    publish: tuple[OutboxRow, ...] = ()


class Cancelled(msgspec.Struct, frozen=True):
    """Outcome of ``cancel``: the state that holds; ``cancelled`` lists this task and the calls it
    had made that ended with it, each with the worker to nudge."""

    state: TaskState
    changed: bool
    nudge: tuple[tuple[str, str], ...] = ()
    """Pairs of task id and worker id."""
    publish: tuple[OutboxRow, ...] = ()


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the store has it, without its input, events and contexts."""

    task_id: str
    session_id: str
    service: str
    state: TaskState
    attempt: int
    crashes: int
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    data: dict[str, Any] = {}
    event_count: int = 0
    owner: str | None = None
    parent: str | None = None
    wait_deadline: float | None = None
    resident: str | None = None
    """Of a running task that waits in its worker's memory: why it could not be put away."""
    runs: int = 0
    """Attempts, and runs of followers."""


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list; what is ``None`` or empty does not narrow the choice.

    Attributes:
        before: only tasks that were created before this one (a task's id), for the next page.
    """

    session_id: str | None = None
    service: str | None = None
    states: tuple[TaskState, ...] = ()
    before: str | None = None
    limit: int = 100


class ServiceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """A service's unfinished work.

    Attributes:
        queued: tasks whose turn it is and that no worker has started.
        blocked: tasks behind another one of their session.
        waiting: tasks put away until an event comes.
        running: tasks by the worker that runs them.
        custody: how many of the running ones were acknowledged to the queue before their end.
        oldest_queued_at: since when the first of ``queued`` waits for a worker.
    """

    queued: int = 0
    blocked: int = 0
    waiting: int = 0
    running: dict[str, int] = {}
    custody: int = 0
    oldest_queued_at: float | None = None


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a task's event log together with where the task stood at that moment.

    Attributes:
        attempt: the current attempt (0 before the first).
        bases: ``base_index`` of each attempt, by attempt number.
        event_count: with a terminal ``state``: how many indices the stream has in the end.
        events: those with ``seq`` above the one asked for, at most ``limit``, by ``seq``.
    """

    state: TaskState
    attempt: int
    bases: dict[int, int]
    event_count: int
    events: tuple[LoggedEvent, ...] = ()


class RoutingStage(msgspec.Struct, frozen=True, kw_only=True):
    """What a custom orchestrator looks at after a service's result.

    ``version`` guards the session state: ``commit_route`` fails when it moved.
    """

    task_id: str
    session_id: str
    service: str
    input: str
    stage: int
    result: str
    data: dict[str, Any]
    state: dict[str, Any]
    version: int


class RouteCommit(msgspec.Struct, frozen=True, kw_only=True):
    """What the orchestrator decided: the next service and input, or the final result."""

    task_id: str
    stage: int
    version: int
    state: dict[str, Any]
    next_service: str | None = None
    next_input: str | None = None
    final_state: TaskState = TaskState.SUCCEEDED
    final_result: str | None = None
    final_data: dict[str, Any] = {}


class RepairPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How ``repair`` treats what is overdue.

    Attributes:
        resend_unstarted_after: seconds after which a published and unstarted task is published
            again, ``None`` for never.
        resend_services: whose tasks that concerns, ``None`` for all; of a durable queue, those
            whose topic is empty.
        outbox_lease: seconds for which leased rows belong to the caller.
        limit: how many rows of each kind one call touches.
    """

    resend_unstarted_after: float | None
    resend_services: tuple[str, ...] | None = None
    outbox_lease: float = 5.0
    limit: int = 256

    @property
    def resend_due_after(self) -> float | None:
        """What ``next_due`` goes by: tasks of a backlog are not due."""
        return self.resend_unstarted_after if self.resend_services is None else None


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of ``repair``: rows to publish, and what was put right, for logs and metrics."""

    publish: tuple[OutboxRow, ...] = ()
    lost_leases: int = 0
    dead_lettered: tuple[str, ...] = ()
    timed_out: tuple[str, ...] = ()


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Work that was given up: a task out of retries, or a message that could not be understood."""

    letter_id: int
    created_at: float
    reason: str
    service: str = ""
    task_id: str | None = None
    message: str | None = None
