"""``StateStore`` on Redis: the script's operations behind the names of the contract."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec

from llamadeploy.exceptions import ConfigurationError, StoreError, StoreUnavailableError
from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_pipe import ANSWER_SECONDS, RedisPipe
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
    LoggedEvent,
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
from llamadeploy.state_stores.redis import operations, replies
from llamadeploy.state_stores.redis.notifications import Notifications
from llamadeploy.state_stores.redis.script import ScriptCaller
from llamadeploy.types import ServiceDefinition, SessionDefinition, TaskDefinition, TaskState

SCHEMA = 2
"""The layout of the keys that this release writes."""

PAGE = 1000
"""Records per step of a listing: others get their turn in between."""

EXPIRE_STEP = 50
"""Tasks forgotten per step (about a millisecond)."""

_LARGEST = 2**50

_SHOWN = {"routing": "running", "blocked": "queued"}
"""States of the script's counts as the contract has them."""


class RedisStateStore:
    """See ``StateStore``; made by :meth:`open`. Belongs to the event loop that opened it."""

    def __init__(
        self,
        address: RedisAddress,
        namespace: str,
        clock: Callable[[], float] | None,
        timeout: float,
        follow: bool,
    ) -> None:
        prefix = f"llamadeploy:{{{namespace}}}:"
        self._followers = Followers()
        self._resend_after: float | None = None
        mark = secrets.token_hex(8)
        self._call = ScriptCaller(
            RedisPipe(address, prefix, timeout=timeout),
            prefix,
            mark=mark,
            followers=self._followers,
            clock=clock,
        )
        self._notifications: Notifications | None = None
        if follow:
            self._notifications = Notifications(
                address,
                f"{prefix}changed",
                mark=mark,
                followers=self._followers,
                silence=timeout,
            )

    @classmethod
    async def open(
        cls,
        uri: str,
        namespace: str,
        *,
        clock: Callable[[], float] | None = None,
        timeout: float = ANSWER_SECONDS,
        follow: bool = True,
    ) -> Self:
        """Connect, and check that the keys are of a layout that this release knows.

        Args:
            uri: see :mod:`llamadeploy.redis_address`.
            clock: seconds since the epoch; the server's time by default.
            timeout: seconds a server may owe an answer before it is taken for away.
            follow: whether followers learn what other processes change, which takes a connection
                and a little work for each change.

        Raises:
            ConfigurationError: the URI is wrong, the login is refused, the keys are newer.
            MissingExtraError: redis-py is not installed.
            StoreUnavailableError: the server cannot be reached now.
        """
        if "{" in namespace or "}" in namespace:
            raise ConfigurationError(f"namespace {namespace!r}: a name with no braces is needed")
        address = RedisAddress(uri, "state store")
        store = cls(address, namespace, clock, timeout, follow)
        try:
            try:
                version = await store._call.run(operations.OPEN, {"version": SCHEMA})
            except StoreUnavailableError:
                raise
            except StoreError as error:
                raise ConfigurationError(f"state store: {error}") from None
            if version > SCHEMA:
                raise ConfigurationError(
                    f"state store {address.shown}: its schema version {version} is newer than "
                    f"{SCHEMA}, the newest that this release knows; run the newer release, or "
                    "name another database"
                )
            if store._notifications is not None:
                await store._notifications.subscribed()
        except BaseException:
            await store.aclose()
            raise
        return store

    @classmethod
    async def open_for_worker(cls, uri: str, namespace: str) -> Self:
        """:meth:`open` for who follows nothing."""
        return await cls.open(uri, namespace, follow=False)

    # -- executions ----------------------------------------------------------------------------
    async def start(self, request: StartRequest) -> StartReply:
        return await self._call.run(operations.START, request)

    async def renew(
        self,
        worker_id: str,
        keys: Sequence[ExecutionKey],
        lease: float,
        *,
        custody: bool = False,
    ) -> list[Renewal]:
        request = {"worker_id": worker_id, "keys": keys, "lease": lease, "custody": custody}
        return await self._call.run(operations.RENEW, request)

    async def append_events(self, key: ExecutionKey, events: Sequence[NewEvent]) -> bool:
        return await self._call.run(operations.APPEND_EVENTS, {"key": key, "events": events})

    async def read_inbound(self, key: ExecutionKey, after: int) -> list[InboundEvent]:
        request = {"key": key, "after": min(after, _LARGEST)}
        return await self._call.run(operations.READ_INBOUND, request)

    async def park(self, request: ParkRequest) -> Finished:
        return await self._call.run(operations.PARK, request)

    async def finish(self, completion: Completion) -> Finished:
        request = {
            "key": completion.key,
            "state": completion.state,
            "result": completion.result,
            "data": replies.to_json(completion.data),
            "events": completion.events,
            "context": completion.context,
            "retryable": completion.retryable,
        }
        return await self._call.run(operations.FINISH, request)

    async def release(self, key: ExecutionKey) -> Finished:
        return await self._call.run(operations.RELEASE, key)

    async def note_resident(self, key: ExecutionKey, reason: str) -> bool:
        return await self._call.run(operations.NOTE_RESIDENT, {"key": key, "reason": reason})

    # -- tasks ---------------------------------------------------------------------------------
    async def create_task(self, task: NewTask) -> Created:
        return await self._call.run(operations.CREATE_TASK, task)

    async def get_task(self, task_id: str) -> TaskRecord | None:
        found = await self._call.run(operations.GET_TASK, task_id)
        return None if found is None else replies.task_record(found)

    async def get_input(self, task_id: str) -> str | None:
        return await self._call.run(operations.GET_INPUT, task_id)

    async def list_tasks(self, session_id: str | None = None) -> list[TaskDefinition]:
        found: list[TaskDefinition] = []
        after = 0
        while True:
            request = {"session_id": session_id, "after": after, "limit": PAGE}
            page, after = await self._call.run(operations.LIST_TASKS, request)
            found += [TaskDefinition(**item) for item in page]
            if not after:
                return found

    async def find_tasks(self, query: TaskQuery) -> list[TaskRecord]:
        found: list[TaskRecord] = []
        below = 0
        while len(found) < query.limit:
            rest = msgspec.structs.replace(query, limit=query.limit - len(found))
            request = {"query": rest, "below": below}
            page, below = await self._call.run(operations.FIND_TASKS, request)
            found += map(replies.task_record, page)
            if not below:
                break
        return found

    async def service_load(self, service: str) -> ServiceLoad:
        found = await self._call.run(operations.SERVICE_LOAD, service)
        return ServiceLoad(
            queued=found.queued,
            blocked=found.blocked,
            waiting=found.waiting,
            running=dict(found.running),
            custody=found.custody,
            oldest_queued_at=found.oldest_queued_at,
        )

    async def cancel(self, task_id: str, reason: str) -> Cancelled:
        return await self._call.run(operations.CANCEL, {"task_id": task_id, "reason": reason})

    async def complete(self, task_id: str, result: str, data: dict[str, Any]) -> Finished:
        request = {
            "task_id": task_id,
            "result": result,
            "data": replies.to_json(data),
            "failed": data.get("state") == TaskState.FAILED.value,
        }
        return await self._call.run(operations.COMPLETE, request)

    async def give_up(self, task_id: str, reason: str) -> Finished:
        return await self._call.run(operations.GIVE_UP, {"task_id": task_id, "reason": reason})

    async def append_foreign_event(self, task_id: str, event: NewEvent) -> bool:
        return await self._call.run(
            operations.APPEND_FOREIGN_EVENT, {"task_id": task_id, "event": event}
        )

    async def append_inbound(self, task_id: str, event: str) -> InboundOutcome:
        request = {"task_id": task_id, "event": event}
        return await self._call.run(operations.APPEND_INBOUND, request)

    async def read_log(self, task_id: str, after: int, limit: int) -> LogPage:
        after = min(after, _LARGEST)
        request = {"task_id": task_id, "after": after, "limit": min(limit, _LARGEST)}
        page, items = await self._call.run_with_items(operations.READ_LOG, request)
        bases = dict(page.bases)
        events = replies.decode_events(items)
        return LogPage(
            state=page.state,
            attempt=page.attempt,
            bases={n: bases.get(n, 0) for n in range(min(1, page.attempt), page.attempt + 1)},
            event_count=page.event_count,
            events=tuple(LoggedEvent(seq, *row) for seq, row in enumerate(events, after + 1)),
        )

    def follow(self, task_id: str) -> Follower:
        return self._followers.follow(task_id)

    def follow_all(self) -> Follower:
        return self._followers.follow(ANY)

    # -- sessions ------------------------------------------------------------------------------
    async def create_session(self, session_id: str) -> None:
        await self._call.run(operations.CREATE_SESSION, session_id)

    async def get_session(self, session_id: str) -> SessionDefinition | None:
        found = await self._call.run(operations.GET_SESSION, session_id)
        return None if found is None else replies.session(found)

    async def list_sessions(self) -> list[SessionDefinition]:
        found: dict[str, SessionDefinition] = {}
        after = "0"
        while True:
            request = {"after": after, "limit": PAGE}
            page, after = await self._call.run(operations.LIST_SESSIONS, request)
            found.update((item.session_id, replies.session(item)) for item in page)
            if after == "0":
                return list(found.values())

    async def delete_session(self, session_id: str) -> Cancelled | None:
        return await self._call.run(operations.DELETE_SESSION, session_id)

    async def forget_sessions(self, session_ids: Sequence[str]) -> list[str]:
        return await self._call.run(operations.FORGET_SESSIONS, session_ids)

    async def merge_session_state(self, session_id: str, patch: dict[str, Any]) -> None:
        request = {"session_id": session_id, "fields": replies.state_fields(patch)}
        await self._call.run(operations.MERGE_SESSION_STATE, request)

    # -- routing -------------------------------------------------------------------------------
    async def routing_stage(self, task_id: str) -> RoutingStage | None:
        found = await self._call.run(operations.ROUTING_STAGE, task_id)
        return None if found is None else replies.routing_stage(found)

    async def commit_route(self, commit: RouteCommit) -> Finished:
        request = {
            **msgspec.structs.asdict(commit),
            "state": replies.state_fields(commit.state),
            "final_data": replies.to_json(commit.final_data),
        }
        return await self._call.run(operations.COMMIT_ROUTE, request)

    # -- outbox and repair ---------------------------------------------------------------------
    async def outbox_done(self, row_ids: Sequence[int]) -> None:
        await self._call.run(operations.OUTBOX_DONE, row_ids)

    async def repair(self, policy: RepairPolicy) -> Repaired:
        self._resend_after = policy.resend_due_after
        return await self._call.run(operations.REPAIR, policy)

    async def next_due(self) -> float | None:
        """Counts unstarted tasks in as the last ``repair`` of this store treated them."""
        return await self._call.run(operations.NEXT_DUE, self._resend_after)

    async def expire_worker(self, worker_id: str) -> int:
        return await self._call.run(operations.EXPIRE_WORKER, worker_id)

    # -- services, dead letters, housekeeping --------------------------------------------------
    async def put_service(self, service: ServiceDefinition) -> None:
        request = {"name": service.service_name, "definition": service.model_dump_json()}
        await self._call.run(operations.PUT_SERVICE, request)

    async def get_service(self, name: str) -> ServiceDefinition | None:
        found = await self._call.run(operations.GET_SERVICE, name)
        return None if found is None else ServiceDefinition.model_validate_json(found)

    async def list_services(self) -> dict[str, ServiceDefinition]:
        found = replies.pairs(await self._call.run(operations.LIST_SERVICES, None))
        return {name: ServiceDefinition.model_validate_json(text) for name, text in sorted(found)}

    async def delete_service(self, name: str) -> None:
        await self._call.run(operations.DELETE_SERVICE, name)

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int:
        request = {"reason": reason, "message": message, "service": service}
        return await self._call.run(operations.ADD_DEAD_LETTER, request)

    async def list_dead_letters(self) -> list[DeadLetter]:
        _, items = await self._call.run_with_items(operations.LIST_DEAD_LETTERS, None)
        letters = replies.decode_letters(items)
        return sorted(letters, key=lambda letter: letter.letter_id)

    async def retry_dead_letter(self, letter_id: int) -> tuple[OutboxRow, ...]:
        return await self._call.run(operations.RETRY_DEAD_LETTER, letter_id)

    async def delete_dead_letter(self, letter_id: int) -> bool:
        return await self._call.run(operations.DELETE_DEAD_LETTER, letter_id)

    async def expire(self, older_than: float, limit: int = 500) -> int:
        """Works in small steps, so that nobody waits long behind it."""
        total = 0
        while total < limit:
            step = min(EXPIRE_STEP, limit - total)
            request = {"older_than": older_than, "limit": step}
            number = await self._call.run(operations.EXPIRE, request)
            total += number
            if number < step:
                break
        return total

    async def purge(self) -> int:
        return await self._call.purge()

    async def counts(self) -> dict[str, int]:
        by_state, outbox = await self._call.run(operations.COUNTS, None)
        found = dict.fromkeys((state.value for state in TaskState), 0)
        for state, number in replies.pairs(by_state):
            found[_SHOWN.get(state, state)] += int(number)
        return {**found, "outbox": outbox}

    def observe(self, observer: StoreObserver | None) -> None:
        self._call.observer = observer

    async def ping(self) -> None:
        await self._call.run(operations.PING, None)

    async def aclose(self) -> None:
        """Finish what was asked and close. Idempotent."""
        if self._notifications is not None:
            await self._notifications.aclose()
        await self._call.aclose()
