"""The adapters under test, and a bench with a clock of its own to try them on.

An adapter joins the conformance suite with an entry in ``adapters``; ``test_registry`` fails while
a registered scheme has none.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.postgresql.store import PostgreSQLStateStore
from llamadeploy.state_stores.records import (
    Completion,
    Created,
    Dropped,
    Execution,
    ExecutionKey,
    Finished,
    NewEvent,
    NewTask,
    OutboxRow,
    ParkRequest,
    Repaired,
    RepairPolicy,
    StartRequest,
    TaskRecord,
)
from llamadeploy.state_stores.redis.store import RedisStateStore
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore
from llamadeploy.types import TaskState

LEASE = 10.0


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


Opener = Callable[[Path, str, Clock], Awaitable[StateStore]]


async def _memory(folder: Path, namespace: str, clock: Clock) -> StateStore:
    return await SQLiteStateStore.open("memory://", namespace, clock=clock)


async def _sqlite(folder: Path, namespace: str, clock: Clock) -> StateStore:
    return await SQLiteStateStore.open(f"sqlite:///{folder}/state.db", namespace, clock=clock)


SCHEMES = ("memory", "postgresql", "redis", "rediss", "sqlite", "unix")
"""What the suite runs on; ``test_registry`` fails while a registered scheme is not among them."""


def _redis(uri: Callable[[], str]) -> Opener:
    async def opener(folder: Path, namespace: str, clock: Clock) -> StateStore:
        # The server is shared: each test's folder makes its namespaces its own.
        return await RedisStateStore.open(uri(), f"{folder}.{namespace}", clock=clock)

    return opener


def _postgresql(uri: Callable[[], str]) -> Opener:
    async def opener(folder: Path, namespace: str, clock: Clock) -> StateStore:
        return await PostgreSQLStateStore.open(uri(), f"{folder}.{namespace}", clock=clock)

    return opener


class Bench:
    """A store with short names for what every test does."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self._numbers = itertools.count(1)

    async def create(self, task_id: str = "t", session_id: str = "s", **fields: Any) -> Created:
        """Create a task of service ``echo``, and its session where there is none."""
        if await self.store.get_session(session_id) is None:
            fields.setdefault("new_session", True)
        fields = {"service": "echo", "input": '{"message": "hello"}', **fields}
        return await self.store.create_task(
            NewTask(task_id=task_id, session_id=session_id, **fields)
        )

    async def try_start(
        self, task_id: str = "t", worker: str = "w", execution_id: str | None = None
    ) -> Execution | Dropped:
        """A delivery reaches a worker."""
        request = StartRequest(
            task_id=task_id,
            execution_id=execution_id or f"x{next(self._numbers)}",
            worker_id=worker,
            lease=LEASE,
        )
        return await self.store.start(request)

    async def start(self, task_id: str = "t", worker: str = "w") -> Execution:
        """A delivery that must lead to an attempt."""
        reply = await self.try_start(task_id, worker)
        assert isinstance(reply, Execution), reply
        return reply

    async def dropped(self, task_id: str = "t") -> str:
        """A delivery that must not lead to an attempt; returns why."""
        reply = await self.try_start(task_id)
        assert isinstance(reply, Dropped), reply
        return reply.reason

    async def running(self, task_id: str = "t", **fields: Any) -> Execution:
        """Create a task and start it."""
        created = await self.create(task_id, **fields)
        await self.store.outbox_done([row.row_id for row in created.publish])
        return await self.start(task_id)

    async def finish(
        self, key: ExecutionKey, result: str = "done", *, failed: bool = False, **fields: Any
    ) -> Finished:
        """The attempt ends."""
        state = TaskState.FAILED if failed else TaskState.SUCCEEDED
        return await self.store.finish(Completion(key=key, state=state, result=result, **fields))

    async def park(self, key: ExecutionKey, *, consumed: int = 0, **fields: Any) -> Finished:
        """The attempt waits."""
        fields = {"snapshot": f"snapshot of {key.attempt}", "next_index": 0, **fields}
        return await self.store.park(ParkRequest(key=key, consumed_seq=consumed, **fields))

    async def repair(
        self, resend: float | None = None, services: tuple[str, ...] | None = None
    ) -> Repaired:
        """The timer's work."""
        return await self.store.repair(
            RepairPolicy(resend_unstarted_after=resend, resend_services=services)
        )

    async def record(self, task_id: str = "t") -> TaskRecord:
        """The task, which must exist."""
        record = await self.store.get_task(task_id)
        assert record is not None
        return record

    async def state(self, task_id: str = "t") -> str:
        """The task's state."""
        return (await self.record(task_id)).state.value


def message_ids(rows: tuple[OutboxRow, ...]) -> list[str]:
    """What would be published, in order."""
    return [row.message_id for row in rows]


def some_events(first: int, last: int) -> tuple[NewEvent, ...]:
    """Events with the indices ``first`` to ``last``."""
    return tuple(NewEvent(n, "Progress", f'{{"n": {n}}}') for n in range(first, last + 1))


@pytest.fixture(scope="session")
def adapters(request: pytest.FixtureRequest) -> dict[str, Opener]:
    """By scheme; a server is started when the first test needs it."""

    def server() -> Any:
        return request.getfixturevalue("redis_server")

    def postgresql() -> Any:
        return request.getfixturevalue("postgresql_server")

    return {
        "memory": _memory,
        "postgresql": _postgresql(lambda: postgresql().uri),
        "sqlite": _sqlite,
        "redis": _redis(lambda: server().uri),
        "rediss": _redis(lambda: server().tls_uri),
        "unix": _redis(lambda: server().socket_uri),
    }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=SCHEMES)
async def bench(
    request: pytest.FixtureRequest, adapters: dict[str, Opener], tmp_path: Path, clock: Clock
) -> AsyncIterator[Bench]:
    """One store of each adapter."""
    store = await adapters[request.param](tmp_path, "ns", clock)
    yield Bench(store, clock)
    await store.aclose()


@pytest.fixture
def ids() -> Callable[[tuple[OutboxRow, ...]], list[str]]:
    return message_ids


@pytest.fixture
def events() -> Callable[[int, int], tuple[NewEvent, ...]]:
    return some_events
