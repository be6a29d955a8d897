"""The contract of a state store adapter.

Every operation is atomic on its record and safe to repeat; none reads and rewrites a whole session.
A worker uses the :class:`ExecutionStore` half, directly where the store is shared, else through the
control plane (``llamadeploy.worker.remote_store``): one protocol, two implementations.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from llamadeploy.state_stores.observation import StoreObserver
from llamadeploy.state_stores.records import (
    Cancelled,
    Completion,
    Created,
    DeadLetter,
    ExecutionKey,
    Finished,
    InboundEvent,
    InboundOutcome,
    LogPage,
    NewEvent,
    NewTask,
    OutboxRow,
    ParkRequest,
    Renewal,
    Repaired,
    RepairPolicy,
    RouteCommit,
    RoutingStage,
    ServiceLoad,
    StartReply,
    StartRequest,
    TaskQuery,
    TaskRecord,
)
from llamadeploy.types import ServiceDefinition, SessionDefinition, TaskDefinition


class ExecutionStore(Protocol):
    """What a worker needs of the store. Each call raises ``StoreUnavailableError`` when the store
    cannot be reached; the caller repeats it, because every call may be repeated."""

    async def start(self, request: StartRequest) -> StartReply:
        """Compare-and-set: a queued task becomes running as the next attempt of ``worker_id``.

        Dropped when the task is unknown, terminal, behind another task of its session, parked, or
        leased to a live attempt. A repeated ``execution_id`` gets its own attempt again.

        With ``follow`` another worker than the live attempt's gets an execution that does not
        lead: from where the attempt began where the dispatch is the present one; for the first
        dispatch from the very beginning, also where the task is parked or has ended since.
        """
        ...

    async def renew(
        self,
        worker_id: str,
        keys: Sequence[ExecutionKey],
        lease: float,
        *,
        custody: bool = False,
    ) -> list[Renewal]:
        """Extend the leases of ``keys``, in their order.

        Args:
            custody: from now on these leases alone stand for their attempts: the worker is about
                to acknowledge the deliveries. Holds until the attempt ends.
        """
        ...

    async def append_events(self, key: ExecutionKey, events: Sequence[NewEvent]) -> bool:
        """Append to the log; indices that are already there are skipped. False: stale attempt."""
        ...

    async def read_inbound(self, key: ExecutionKey, after: int) -> list[InboundEvent]:
        """Accepted events with ``seq`` above ``after``; empty for a stale attempt. The last one may
        read on after its end, for those who follow it."""
        ...

    async def park(self, request: ParkRequest) -> Finished:
        """Store the snapshot and free the task of its worker.

        Where an inbound event above ``consumed_seq`` is already there the task goes back to the
        queue at once: ``publish`` then has its resume row.
        """
        ...

    async def finish(self, completion: Completion) -> Finished:
        """Result, tail of the stream, context, release of the session and its next task's outbox
        row, in one transaction. A failed attempt with retries left and ``retry_on_error`` goes
        back to the queue instead."""
        ...

    async def release(self, key: ExecutionKey) -> Finished:
        """Hand an unfinished attempt back (drain): queued again, no retry counted."""
        ...

    async def note_resident(self, key: ExecutionKey, reason: str) -> bool:
        """The attempt waits and cannot be parked, because of ``reason``: shown in the task's
        status until the attempt ends. False: stale attempt."""
        ...


class Follower(Protocol):
    """Wakes whoever waits for a task. Use as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...

    async def changed(self, timeout: float) -> bool:
        """Return true as soon as the task changed since the last call (or since entering), false
        after ``timeout`` seconds. Read the store after entering, and after each return."""
        ...

    async def end(self, timeout: float) -> TaskRecord | None:
        """Return the record of the task as soon as it ends, where the store tells of it; ``None``
        when the task may have ended or vanished, or after ``timeout`` seconds: read the store
        then. Changes that are no end may go unnoticed. Read the store after entering, unless the
        task was created a moment ago."""
        ...


class StateStore(ExecutionStore, Protocol):
    """One adapter, opened for one deployment (``namespace``): it sees nothing of another's."""

    # -- tasks ---------------------------------------------------------------------------------
    async def create_task(self, task: NewTask) -> Created:
        """Insert if absent, assign the place in the session, insert the outbox row of its head.

        Raises:
            NotFoundError: no such session.
            ConflictError: the id exists with another ``body_hash``.
            SessionBusyError: policy ``reject`` and the session has an unfinished task.
        """
        ...

    async def get_task(self, task_id: str) -> TaskRecord | None: ...

    async def get_input(self, task_id: str) -> str | None: ...

    async def list_tasks(self, session_id: str | None = None) -> list[TaskDefinition]:
        """Definitions, oldest first.

        Raises:
            NotFoundError: no such session.
        """
        ...

    async def find_tasks(self, query: TaskQuery) -> list[TaskRecord]:
        """Tasks as they stand, the newest first."""
        ...

    async def service_load(self, service: str) -> ServiceLoad:
        """How much unfinished work a service has."""
        ...

    async def cancel(self, task_id: str, reason: str) -> Cancelled:
        """Compare-and-set against the result; ends the task's unfinished calls too.

        Raises:
            NotFoundError: no such task.
        """
        ...

    async def complete(self, task_id: str, result: str, data: dict[str, Any]) -> Finished:
        """End a task from outside a lease (a ``completed_task`` message of a foreign service)."""
        ...

    async def give_up(self, task_id: str, reason: str) -> Finished:
        """End a task that is queued, so that nobody works on it, as failed, and put it among the
        dead letters; not accepted in any other state, and of a task that does not exist."""
        ...

    async def append_foreign_event(self, task_id: str, event: NewEvent) -> bool:
        """Append an event that comes without an attempt (a foreign service's ``task_stream``)."""
        ...

    async def append_inbound(self, task_id: str, event: str) -> InboundOutcome:
        """Accept an event for a task; atomic against ``park``.

        Raises:
            NotFoundError: no such task.
        """
        ...

    async def read_log(self, task_id: str, after: int, limit: int) -> LogPage:
        """Part of the event log.

        Raises:
            NotFoundError: no such task.
        """
        ...

    def follow(self, task_id: str) -> Follower: ...

    def follow_all(self) -> Follower:
        """Wakes at a change of any task, made here or in another process. During an outage some
        may go unnoticed: look now and then."""
        ...

    # -- sessions ------------------------------------------------------------------------------
    async def create_session(self, session_id: str) -> None:
        """Raises ConflictError where it exists."""
        ...

    async def get_session(self, session_id: str) -> SessionDefinition | None:
        """With its task ids; ``state`` is the user's state."""
        ...

    async def list_sessions(self) -> list[SessionDefinition]: ...

    async def delete_session(self, session_id: str) -> Cancelled | None:
        """Cancel what is unfinished and forget the session with all of its tasks; idempotent."""
        ...

    async def forget_sessions(self, session_ids: Sequence[str]) -> list[str]:
        """Forget those sessions that have no unfinished task, with all of their tasks, in one step.
        Returns the others, which stay as they are. Idempotent."""
        ...

    async def merge_session_state(self, session_id: str, patch: dict[str, Any]) -> None:
        """Shallow merge, atomic.

        Raises:
            NotFoundError: no such session.
        """
        ...

    # -- routing by a custom orchestrator ------------------------------------------------------
    async def routing_stage(self, task_id: str) -> RoutingStage | None:
        """The stage that waits to be routed; ``None`` where there is none (any more)."""
        ...

    async def commit_route(self, commit: RouteCommit) -> Finished:
        """Apply the decision; not accepted when ``stage`` or ``version`` moved: read again."""
        ...

    # -- outbox and repair ---------------------------------------------------------------------
    async def outbox_done(self, row_ids: Sequence[int]) -> None:
        """The rows were published."""
        ...

    async def repair(self, policy: RepairPolicy) -> Repaired:
        """Lease due outbox rows; take back lost leases; end what is out of retries or of time;
        wake parked tasks whose deadline has passed."""
        ...

    async def next_due(self) -> float | None:
        """When ``repair`` has something to do next; ``None`` for nothing."""
        ...

    async def expire_worker(self, worker_id: str) -> int:
        """The worker is known to be dead: its leases are lost now. Returns how many."""
        ...

    # -- services, dead letters, housekeeping --------------------------------------------------
    async def put_service(self, service: ServiceDefinition) -> None: ...

    async def get_service(self, name: str) -> ServiceDefinition | None: ...

    async def list_services(self) -> dict[str, ServiceDefinition]: ...

    async def delete_service(self, name: str) -> None: ...

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int: ...

    async def list_dead_letters(self) -> list[DeadLetter]: ...

    async def retry_dead_letter(self, letter_id: int) -> tuple[OutboxRow, ...]:
        """Queue the task again with its retries renewed, and forget its terminal error.

        Raises:
            NotFoundError: no such letter, or its task is gone.
        """
        ...

    async def delete_dead_letter(self, letter_id: int) -> bool: ...

    async def expire(self, older_than: float, limit: int = 500) -> int:
        """Forget up to ``limit`` tasks that finished before ``older_than``, leaving a tombstone;
        and sessions that are idle since then. Returns how many tasks."""
        ...

    async def purge(self) -> int:
        """Forget everything of this deployment, and nothing of another's; how many tasks that were.

        Nobody should use it now: what is written meanwhile stays. Tombstones of SQL stores, which
        do not tell whose they are, stay until their time has come.
        """
        ...

    async def counts(self) -> dict[str, int]:
        """How many tasks are in each state, and ``outbox`` rows."""
        ...

    def observe(self, observer: StoreObserver | None) -> None:
        """From now on tell ``observer`` what was committed; ``None`` ends it."""
        ...

    async def ping(self) -> None: ...

    async def aclose(self) -> None: ...
