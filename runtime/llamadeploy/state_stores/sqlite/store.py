"""``StateStore`` on SQLite: the functions of this package behind the names of the contract."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

from llamadeploy.state_stores.base import Follower
from llamadeploy.state_stores.followers import ANY, Followers
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
from llamadeploy.state_stores.sqlite import (
    dispatch,
    endings,
    events,
    executions,
    listing,
    repair,
    retention,
    routing,
    services,
    sessions,
    tasks,
)
from llamadeploy.state_stores.sqlite.connection import Location, connect, connect_reader, parse_uri
from llamadeploy.state_stores.sqlite.engine import Engine
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import ServiceDefinition, SessionDefinition, TaskDefinition

T = TypeVar("T")
C = TypeVar("C")

PAGE = 1000
"""Records per step of a listing: others get their turn in between."""

EXPIRE_STEP = 50
"""Tasks forgotten per transaction (some milliseconds)."""


class SQLiteStateStore:
    """See ``StateStore``; made by :meth:`open`. Belongs to the event loop that opened it.

    A file has a second connection for reading, so that a long log or listing delays no writer.
    """

    def __init__(self, writer: Engine, reader: Engine, followers: Followers) -> None:
        self._writer = writer
        self._reader = reader
        self._followers = followers
        self._resend_after: float | None = None

    @classmethod
    async def open(
        cls, uri: str, namespace: str, *, clock: Callable[[], float] = time.time
    ) -> Self:
        """Open (and create) the database.

        Raises:
            ConfigurationError: the URI or the file cannot be used.
            StoreUnavailableError: the file is locked, or the disk fails.
        """
        location = parse_uri(uri)
        followers = Followers()

        def engine(opener: Callable[[Location], Any], writes: bool) -> Engine:
            return Engine(
                location,
                namespace,
                opener,
                clock=clock,
                writes=writes,
                notify=followers.wake,
                names=_NAMES,
            )

        writer = engine(connect, True)
        await writer.open()
        if location.path is None:
            return cls(writer, writer, followers)
        reader = engine(connect_reader, False)
        try:
            await reader.open()
        except BaseException:
            await writer.close()
            raise
        return cls(writer, reader, followers)

    # -- executions ----------------------------------------------------------------------------
    async def start(self, request: StartRequest) -> StartReply:
        return await self._writer.submit(executions.start, request)

    async def renew(
        self,
        worker_id: str,
        keys: Sequence[ExecutionKey],
        lease: float,
        *,
        custody: bool = False,
    ) -> list[Renewal]:
        return await self._writer.submit(executions.renew, worker_id, keys, lease, custody)

    async def append_events(self, key: ExecutionKey, events_: Sequence[NewEvent]) -> bool:
        return await self._writer.submit(events.append, key, events_)

    async def read_inbound(self, key: ExecutionKey, after: int) -> list[InboundEvent]:
        return await self._reader.submit(events.read_inbound, key, after)

    async def park(self, request: ParkRequest) -> Finished:
        return await self._writer.submit(executions.park, request)

    async def finish(self, completion: Completion) -> Finished:
        return await self._writer.submit(endings.finish, completion)

    async def release(self, key: ExecutionKey) -> Finished:
        return await self._writer.submit(executions.release, key)

    async def note_resident(self, key: ExecutionKey, reason: str) -> bool:
        return await self._writer.submit(executions.note_resident, key, reason)

    # -- tasks ---------------------------------------------------------------------------------
    async def create_task(self, task: NewTask) -> Created:
        return await self._writer.submit(tasks.create, task)

    async def get_task(self, task_id: str) -> TaskRecord | None:
        return await self._reader.submit(tasks.get, task_id)

    async def get_input(self, task_id: str) -> str | None:
        return await self._reader.submit(tasks.get_input, task_id)

    async def list_tasks(self, session_id: str | None = None) -> list[TaskDefinition]:
        if session_id is not None:
            return await self._reader.submit(tasks.of_session, session_id)
        return await _pages(lambda after: self._reader.submit(tasks.page, after, PAGE), 0)

    async def find_tasks(self, query: TaskQuery) -> list[TaskRecord]:
        return await self._reader.submit(listing.find, query)

    async def service_load(self, service: str) -> ServiceLoad:
        return await self._reader.submit(listing.load, service)

    async def cancel(self, task_id: str, reason: str) -> Cancelled:
        return await self._writer.submit(endings.cancel, task_id, reason)

    async def complete(self, task_id: str, result: str, data: dict[str, Any]) -> Finished:
        return await self._writer.submit(endings.complete, task_id, result, data)

    async def give_up(self, task_id: str, reason: str) -> Finished:
        return await self._writer.submit(endings.give_up_queued, task_id, reason)

    async def append_foreign_event(self, task_id: str, event: NewEvent) -> bool:
        return await self._writer.submit(events.append_foreign, task_id, event)

    async def append_inbound(self, task_id: str, event: str) -> InboundOutcome:
        return await self._writer.submit(events.append_inbound, task_id, event)

    async def read_log(self, task_id: str, after: int, limit: int) -> LogPage:
        return await self._reader.submit(events.read_log, task_id, after, limit)

    def follow(self, task_id: str) -> Follower:
        return self._followers.follow(task_id)

    def follow_all(self) -> Follower:
        return self._followers.follow(ANY)

    # -- sessions ------------------------------------------------------------------------------
    async def create_session(self, session_id: str) -> None:
        await self._writer.submit(sessions.create_session, session_id)

    async def get_session(self, session_id: str) -> SessionDefinition | None:
        return await self._reader.submit(sessions.get_session, session_id)

    async def list_sessions(self) -> list[SessionDefinition]:
        return await _pages(lambda after: self._reader.submit(sessions.page, after, PAGE), "")

    async def delete_session(self, session_id: str) -> Cancelled | None:
        return await self._writer.submit(retention.delete_session, session_id)

    async def forget_sessions(self, session_ids: Sequence[str]) -> list[str]:
        return await self._writer.submit(retention.forget_sessions, session_ids)

    async def merge_session_state(self, session_id: str, patch: dict[str, Any]) -> None:
        await self._writer.submit(sessions.merge_state, session_id, patch)

    # -- routing -------------------------------------------------------------------------------
    async def routing_stage(self, task_id: str) -> RoutingStage | None:
        return await self._reader.submit(routing.stage, task_id)

    async def commit_route(self, commit: RouteCommit) -> Finished:
        return await self._writer.submit(routing.commit, commit)

    # -- outbox and repair ---------------------------------------------------------------------
    async def outbox_done(self, row_ids: Sequence[int]) -> None:
        await self._writer.submit(dispatch.done, row_ids)

    async def repair(self, policy: RepairPolicy) -> Repaired:
        self._resend_after = policy.resend_due_after
        return await self._writer.submit(repair.repair, policy)

    async def next_due(self) -> float | None:
        """Counts unstarted tasks in as the last ``repair`` of this store treated them."""
        return await self._reader.submit(repair.next_due, self._resend_after)

    async def expire_worker(self, worker_id: str) -> int:
        return await self._writer.submit(executions.expire_worker, worker_id)

    # -- services, dead letters, housekeeping --------------------------------------------------
    async def put_service(self, service: ServiceDefinition) -> None:
        await self._writer.submit(services.put, service)

    async def get_service(self, name: str) -> ServiceDefinition | None:
        return await self._reader.submit(services.get, name)

    async def list_services(self) -> dict[str, ServiceDefinition]:
        return await self._reader.submit(services.list_all)

    async def delete_service(self, name: str) -> None:
        await self._writer.submit(services.delete, name)

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int:
        return await self._writer.submit(endings.add_dead_letter, reason, message, service)

    async def list_dead_letters(self) -> list[DeadLetter]:
        return await self._reader.submit(endings.dead_letters)

    async def retry_dead_letter(self, letter_id: int) -> tuple[OutboxRow, ...]:
        return await self._writer.submit(endings.retry_dead_letter, letter_id)

    async def delete_dead_letter(self, letter_id: int) -> bool:
        return await self._writer.submit(endings.delete_dead_letter, letter_id)

    async def expire(self, older_than: float, limit: int = 500) -> int:
        """Works in small transactions, so that nobody waits long behind it."""
        total = 0
        while total < limit:
            step = min(EXPIRE_STEP, limit - total)
            number = await self._writer.submit(retention.expire, older_than, step)
            total += number
            if number < step:
                break
        return total

    async def purge(self) -> int:
        """Works in small transactions, so that nobody waits long behind it."""
        total = 0
        while True:
            number = await self._writer.submit(retention.purge, EXPIRE_STEP)
            total += number
            if number < EXPIRE_STEP:
                return total

    async def counts(self) -> dict[str, int]:
        return await self._reader.submit(tasks.counts)

    def observe(self, observer: StoreObserver | None) -> None:
        self._writer.observer = self._reader.observer = observer

    async def ping(self) -> None:
        await self._writer.submit(_ping)

    async def aclose(self) -> None:
        """Finish what is queued and close. Idempotent."""
        await self._reader.close()
        await self._writer.close()


def _ping(tx: Tx) -> None:
    tx.conn.execute("SELECT version FROM schema_version").fetchone()


_NAMES: dict[Callable[..., Any], str] = {
    tasks.create: "create_task",
    tasks.get: "get_task",
    tasks.of_session: "list_tasks",
    tasks.page: "list_tasks",
    events.append: "append_events",
    events.append_foreign: "append_foreign_event",
    sessions.page: "list_sessions",
    sessions.merge_state: "merge_session_state",
    routing.stage: "routing_stage",
    routing.commit: "commit_route",
    dispatch.done: "outbox_done",
    endings.dead_letters: "list_dead_letters",
    endings.give_up_queued: "give_up",
    services.put: "put_service",
    services.get: "get_service",
    services.list_all: "list_services",
    services.delete: "delete_service",
    _ping: "ping",
}
"""The contract's names of operations, where the functions have others."""


async def _pages(read: Callable[[C], Awaitable[tuple[list[T], C | None]]], first: C) -> list[T]:
    found: list[T] = []
    after: C | None = first
    while after is not None:
        page, after = await read(after)
        found += page
    return found
