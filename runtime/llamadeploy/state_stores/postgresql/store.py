"""``StateStore`` on PostgreSQL: the functions of ``sql/`` behind the names of the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import msgspec

from llamadeploy.state_stores.base import Follower
from llamadeploy.state_stores.followers import ANY
from llamadeploy.state_stores.observation import StoreObserver, tell
from llamadeploy.state_stores.postgresql import errors, replies
from llamadeploy.state_stores.postgresql.codec import encode
from llamadeploy.state_stores.postgresql.connection import Connection, connect
from llamadeploy.state_stores.postgresql.lanes import Lanes, Operation
from llamadeploy.state_stores.postgresql.location import Location, parse_uri
from llamadeploy.state_stores.postgresql.purge import purge
from llamadeploy.state_stores.postgresql.replies import Reply, finished
from llamadeploy.state_stores.postgresql.schema import migrate
from llamadeploy.state_stores.postgresql.wakeups import (
    LINGER_SECONDS,
    PATIENT_SECONDS,
    Wakeups,
)
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
from llamadeploy.types import ServiceDefinition, SessionDefinition, TaskDefinition, TaskState

PAGE = 1000
"""Records per step of a listing."""

EXPIRE_STEP = 50
"""Tasks forgotten per transaction (some milliseconds)."""

UNTOLD = frozenset({"create_task", "forget_sessions"})
"""Changes of which other processes are not told. Nobody there follows a task that was not there
before; and what is forgotten so had ended, of which they were told."""

_LARGEST = 2**62


class PostgreSQLStateStore:
    """See ``StateStore``; made by :meth:`open`. Belongs to the event loop that opened it."""

    def __init__(
        self,
        location: Location,
        namespace: str,
        clock: Callable[[], float] | None,
        spare: Connection,
    ) -> None:
        self._location = location
        self._namespace = namespace
        self._now = clock or time.time
        self._spare: Connection | None = spare
        self._observer: StoreObserver | None = None
        self._resend_after: float | None = None
        self._lanes = Lanes(location, namespace, self._connect, clock=clock, done=self._done)
        announce = partial(connect, location, synchronous_commit="off")
        self._wakeups = Wakeups(namespace, announce, self._marks)

    @classmethod
    async def open(
        cls,
        uri: str,
        namespace: str,
        *,
        clock: Callable[[], float] | None = None,
        listens: bool = True,
    ) -> Self:
        """Connect, and create or migrate the tables.

        Args:
            clock: a clock instead of the server's, for tests.
            listens: hear from the start on what other processes change; else with the first
                follower.

        Raises:
            ConfigurationError: the URI, the login or the database cannot be used.
            StoreUnavailableError: the server cannot be reached now.
        """
        location = parse_uri(uri)
        try:
            connection = await connect(location)
            try:
                await migrate(location, connection)
            except BaseException:
                connection.terminate()
                raise
        except errors.CAUGHT as error:
            raise errors.translate(location, error, opening=True) from error
        store = cls(location, namespace, clock, connection)
        await store._wakeups.start(listens)
        return store

    @classmethod
    async def open_for_worker(cls, uri: str, namespace: str) -> Self:
        """As :meth:`open`, for a process that follows no task."""
        return await cls.open(uri, namespace, listens=False)

    async def _connect(self) -> Connection:
        spare, self._spare = self._spare, None
        return spare if spare is not None else await connect(self._location)

    def _call(
        self,
        name: str,
        decode: Callable[[bytes], Any],
        request: Any,
        *,
        repeatable: bool = True,
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._lanes.submit(Operation(name, encode(request), decode, future, repeatable))
        return future

    def _done(self, operation: Operation, reply: Any) -> None:
        if isinstance(reply, Reply) and reply.touched:
            if operation.name in UNTOLD:
                self._wakeups.wake(reply.touched, dict(reply.ended))
            else:
                linger = PATIENT_SECONDS if operation.name == "start" else LINGER_SECONDS
                self._wakeups.changed(reply.touched, dict(reply.ended), linger)
        if self._observer is not None:
            self._observer.operation(operation.name, time.perf_counter() - operation.asked)
            if isinstance(reply, Reply):
                tell(self._observer, list(reply.observed))

    async def _marks(self, task_ids: list[str]) -> dict[str, str]:
        marks: dict[str, str] = await self._call("marks", replies.MARKS, {"tasks": task_ids})
        return marks

    # -- executions ----------------------------------------------------------------------------
    async def start(self, request: StartRequest) -> StartReply:
        reply: Reply[StartReply] = await self._call("start", replies.START, request)
        return reply.value

    async def renew(
        self,
        worker_id: str,
        keys: Sequence[ExecutionKey],
        lease: float,
        *,
        custody: bool = False,
    ) -> list[Renewal]:
        request = {"worker_id": worker_id, "keys": keys, "lease": lease, "custody": custody}
        reply: Reply[list[Renewal]] = await self._call("renew", replies.RENEWALS, request)
        return reply.value

    async def append_events(self, key: ExecutionKey, events_: Sequence[NewEvent]) -> bool:
        request = {"key": key, "events": events_}
        reply: Reply[bool] = await self._call("append_events", replies.FLAG, request)
        return reply.value

    async def read_inbound(self, key: ExecutionKey, after: int) -> list[InboundEvent]:
        request = {"key": key, "after": min(after, _LARGEST)}
        found: list[InboundEvent] = await self._call("read_inbound", replies.INBOUND, request)
        return found

    async def park(self, request: ParkRequest) -> Finished:
        return finished(await self._call("park", replies.FLAG, request))

    async def finish(self, completion: Completion) -> Finished:
        return finished(await self._call("finish", replies.FLAG, completion))

    async def release(self, key: ExecutionKey) -> Finished:
        return finished(await self._call("release", replies.FLAG, {"key": key}))

    async def note_resident(self, key: ExecutionKey, reason: str) -> bool:
        request = {"key": key, "reason": reason}
        reply: Reply[bool] = await self._call("note_resident", replies.FLAG, request)
        return reply.value

    # -- tasks ---------------------------------------------------------------------------------
    async def create_task(self, task: NewTask) -> Created:
        reply: Reply[Created] = await self._call("create_task", replies.CREATED, task)
        return msgspec.structs.replace(reply.value, publish=reply.publish)

    async def get_task(self, task_id: str) -> TaskRecord | None:
        record: TaskRecord | None
        record = await self._call("get_task", replies.RECORD, {"task_id": task_id})
        return record

    async def get_input(self, task_id: str) -> str | None:
        text: str | None = await self._call("get_input", replies.TEXT, {"task_id": task_id})
        return text

    async def list_tasks(self, session_id: str | None = None) -> list[TaskDefinition]:
        found: list[replies.Definition] = []
        page: list[replies.Definition] | None = None
        after = 0
        while page is None or (session_id is None and len(page) == PAGE):
            request = {"session_id": session_id, "after": after, "limit": PAGE}
            page = await self._call("list_tasks", replies.DEFINITIONS, request)
            found += page
            after = page[-1].id if page else after
        return [
            TaskDefinition(
                input=task.input,
                task_id=task.task_id,
                session_id=task.session_id,
                service_id=task.service_id,
            )
            for task in found
        ]

    async def find_tasks(self, query: TaskQuery) -> list[TaskRecord]:
        found: list[TaskRecord] = await self._call("find_tasks", replies.RECORDS, query)
        return found

    async def service_load(self, service: str) -> ServiceLoad:
        load: ServiceLoad
        load = await self._call("service_load", replies.LOAD, {"service": service})
        return load

    async def cancel(self, task_id: str, reason: str) -> Cancelled:
        request = {"task_id": task_id, "reason": reason}
        reply: Reply[Cancelled] = await self._call("cancel", replies.CANCELLED, request)
        return msgspec.structs.replace(reply.value, publish=reply.publish)

    async def complete(self, task_id: str, result: str, data: dict[str, Any]) -> Finished:
        request = {"task_id": task_id, "result": result, "data": data}
        return finished(await self._call("complete", replies.FLAG, request))

    async def give_up(self, task_id: str, reason: str) -> Finished:
        request = {"task_id": task_id, "reason": reason}
        return finished(await self._call("give_up", replies.FLAG, request))

    async def append_foreign_event(self, task_id: str, event: NewEvent) -> bool:
        request = {"task_id": task_id, "events": (event,)}
        reply: Reply[bool] = await self._call("append_foreign_event", replies.FLAG, request)
        return reply.value

    async def append_inbound(self, task_id: str, event: str) -> InboundOutcome:
        """Not repeated here when the connection breaks: the event might be taken twice."""
        request = {"task_id": task_id, "event": event}
        reply: Reply[InboundOutcome]
        reply = await self._call(
            "append_inbound", replies.INBOUND_OUTCOME, request, repeatable=False
        )
        return msgspec.structs.replace(reply.value, publish=reply.publish)

    async def read_log(self, task_id: str, after: int, limit: int) -> LogPage:
        request = {
            "task_id": task_id,
            "after": min(after, _LARGEST),
            "limit": min(limit, _LARGEST),
        }
        page: LogPage = await self._call("read_log", replies.LOG_PAGE, request)
        return page

    def follow(self, task_id: str) -> Follower:
        return self._wakeups.follow(task_id)

    def follow_all(self) -> Follower:
        return self._wakeups.follow(ANY)

    # -- sessions ------------------------------------------------------------------------------
    async def create_session(self, session_id: str) -> None:
        await self._call(
            "create_session", replies.NONE, {"session_id": session_id}, repeatable=False
        )

    async def get_session(self, session_id: str) -> SessionDefinition | None:
        session: replies.Session | None
        session = await self._call("get_session", replies.SESSION, {"session_id": session_id})
        return None if session is None else _session(session)

    async def list_sessions(self) -> list[SessionDefinition]:
        found: list[replies.Session] = []
        page: list[replies.Session] | None = None
        while page is None or len(page) == PAGE:
            after = found[-1].session_id if found else ""
            request = {"after": after, "limit": PAGE}
            page = await self._call("list_sessions", replies.SESSIONS, request)
            found += page
        return [_session(session) for session in found]

    async def delete_session(self, session_id: str) -> Cancelled | None:
        reply: Reply[Cancelled | None]
        reply = await self._call("delete_session", replies.DELETED, {"session_id": session_id})
        if reply.value is None:
            return None
        return msgspec.structs.replace(reply.value, publish=reply.publish)

    async def forget_sessions(self, session_ids: Sequence[str]) -> list[str]:
        request = {"session_ids": session_ids}
        reply: Reply[list[str]] = await self._call("forget_sessions", replies.NAMES, request)
        return reply.value

    async def merge_session_state(self, session_id: str, patch: dict[str, Any]) -> None:
        request = {"session_id": session_id, "patch": patch}
        await self._call("merge_session_state", replies.NONE, request)

    # -- routing -------------------------------------------------------------------------------
    async def routing_stage(self, task_id: str) -> RoutingStage | None:
        stage: RoutingStage | None
        stage = await self._call("routing_stage", replies.STAGE, {"task_id": task_id})
        return stage

    async def commit_route(self, commit: RouteCommit) -> Finished:
        return finished(await self._call("commit_route", replies.FLAG, commit))

    # -- outbox and repair ---------------------------------------------------------------------
    async def outbox_done(self, row_ids: Sequence[int]) -> None:
        await self._call("outbox_done", replies.NONE, {"row_ids": row_ids})

    async def repair(self, policy: RepairPolicy) -> Repaired:
        self._resend_after = policy.resend_due_after
        reply: Reply[Repaired] = await self._call("repair", replies.REPAIRED, policy)
        return msgspec.structs.replace(reply.value, publish=reply.publish)

    async def next_due(self) -> float | None:
        """By this process's clock, so that it can be waited for. Counts unstarted tasks in as the
        last ``repair`` of this store treated them."""
        request = {"resend_unstarted_after": self._resend_after}
        seconds: float | None = await self._call("next_due", replies.SECONDS, request)
        return None if seconds is None else self._now() + seconds

    async def expire_worker(self, worker_id: str) -> int:
        reply: Reply[int]
        reply = await self._call("expire_worker", replies.NUMBER, {"worker_id": worker_id})
        return reply.value

    # -- services, dead letters, housekeeping --------------------------------------------------
    async def put_service(self, service: ServiceDefinition) -> None:
        request = {"name": service.service_name, "definition": service.model_dump_json()}
        await self._call("put_service", replies.NONE, request)

    async def get_service(self, name: str) -> ServiceDefinition | None:
        found: list[str] = await self._call("list_services", replies.TEXTS, {"name": name})
        return ServiceDefinition.model_validate_json(found[0]) if found else None

    async def list_services(self) -> dict[str, ServiceDefinition]:
        found: list[str] = await self._call("list_services", replies.TEXTS, {})
        services = [ServiceDefinition.model_validate_json(text) for text in found]
        return {service.service_name: service for service in services}

    async def delete_service(self, name: str) -> None:
        await self._call("delete_service", replies.NONE, {"name": name})

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int:
        request = {"reason": reason, "message": message, "service": service}
        reply: Reply[int]
        reply = await self._call("add_dead_letter", replies.NUMBER, request, repeatable=False)
        return reply.value

    async def list_dead_letters(self) -> list[DeadLetter]:
        letters: list[DeadLetter] = await self._call("list_dead_letters", replies.LETTERS, {})
        return letters

    async def retry_dead_letter(self, letter_id: int) -> tuple[OutboxRow, ...]:
        reply: Reply[None] = await self._call(
            "retry_dead_letter", replies.NONE, {"letter_id": letter_id}, repeatable=False
        )
        return reply.publish

    async def delete_dead_letter(self, letter_id: int) -> bool:
        reply: Reply[bool]
        reply = await self._call("delete_dead_letter", replies.FLAG, {"letter_id": letter_id})
        return reply.value

    async def expire(self, older_than: float, limit: int = 500) -> int:
        """Works in small transactions, so that nobody waits long behind it."""
        total = 0
        while total < limit:
            step = min(EXPIRE_STEP, limit - total)
            request = {"older_than": older_than, "limit": step}
            reply: Reply[int] = await self._call("expire", replies.NUMBER, request)
            total += reply.value
            if reply.value < step:
                break
        return total

    async def purge(self) -> int:
        """In small transactions, on a connection of its own."""
        try:
            connection = await connect(self._location)
            try:
                return await purge(connection, self._namespace)
            finally:
                connection.terminate()
        except errors.CAUGHT as error:
            raise errors.translate(self._location, error) from error

    async def counts(self) -> dict[str, int]:
        found: dict[str, int] = await self._call("counts", replies.COUNTS, {})
        return {**dict.fromkeys((state.value for state in TaskState), 0), **found}

    def observe(self, observer: StoreObserver | None) -> None:
        self._observer = observer

    async def ping(self) -> None:
        await self._call("get_task", replies.RECORD, {"task_id": ""})

    async def aclose(self) -> None:
        """Finish what is queued and close. Idempotent."""
        await self._lanes.close()
        await self._wakeups.close()
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.terminate()


def _session(session: replies.Session) -> SessionDefinition:
    return SessionDefinition(
        session_id=session.session_id, task_ids=session.task_ids, state=session.state
    )
