"""What operations cost, counted in SQLite's own steps: nothing grows with what is already there."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from llamadeploy.state_stores.records import (
    Completion,
    Execution,
    ExecutionKey,
    NewEvent,
    NewTask,
    ParkRequest,
    RepairPolicy,
    StartRequest,
)
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore
from llamadeploy.types import TaskState


async def running(store: SQLiteStateStore, task_id: str, **fields: Any) -> ExecutionKey:
    fields = {"session_id": task_id, "new_session": True, **fields}
    await store.create_task(NewTask(task_id=task_id, service="e", input="{}", **fields))
    run = await store.start(
        StartRequest(task_id=task_id, execution_id=task_id, worker_id="w", lease=60)
    )
    assert isinstance(run, Execution)
    return run.key


class Steps:
    """Counts the virtual machine's instructions, in hundreds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> Steps:
        self.count = 0
        self.connection.set_progress_handler(self._tick, 100)
        return self

    def _tick(self) -> int:
        self.count += 1
        return 0

    def __exit__(self, *exc: object) -> None:
        self.connection.set_progress_handler(None, 100)


@pytest.mark.defect(3)
async def test_a_stream_of_100_000_events_is_linear(
    store: SQLiteStateStore, connections: list[sqlite3.Connection]
) -> None:
    key = await running(store, "t")

    async def append(first: int, number: int) -> None:
        batch = [NewEvent(n, "E", '{"n": 1}') for n in range(first, first + number)]
        assert await store.append_events(key, batch)

    await append(0, 500)
    with Steps(connections[0]) as early:
        await append(500, 500)
    for first in range(1000, 99_500, 500):
        await append(first, 500)
    with Steps(connections[0]) as late:
        await append(99_500, 500)
    assert early.count > 10
    assert late.count <= 1.1 * early.count

    seen, after, pages = 0, 0, 0
    while (page := await store.read_log("t", after, 5000)).events:
        seen, after, pages = seen + len(page.events), page.events[-1].seq, pages + 1
    assert (seen, pages) == (100_000, 20)


async def test_events_of_a_batch_are_one_call(
    store: SQLiteStateStore, traced: Callable[[], list[str]]
) -> None:
    key = await running(store, "t")
    statements = traced()
    await store.append_events(key, [NewEvent(n, "E", "{}") for n in range(100)])
    inserts = [s for s in statements if s.startswith("INSERT")]
    assert len(inserts) == 100, "one row each, nothing else per event"
    assert len(statements) - len(inserts) <= 8


async def test_a_task_costs_the_same_in_a_full_store(
    store: SQLiteStateStore, connections: list[sqlite3.Connection]
) -> None:
    async def cycle(name: str) -> None:
        key = await running(store, name)
        await store.finish(Completion(key=key, state=TaskState.SUCCEEDED, result="r"))
        await store.repair(RepairPolicy(resend_unstarted_after=5))

    for number in range(20):
        await cycle(f"first{number}")
    with Steps(connections[0]) as early:
        for number in range(50):
            await cycle(f"early{number}")
    for number in range(3000):
        name = f"more{number}"
        if number % 3:
            await running(store, name)
        else:
            task = NewTask(
                task_id=name, session_id="one", service="e", input="{}", new_session=number == 0
            )
            await store.create_task(task)
    with Steps(connections[0]) as late:
        for number in range(50):
            await cycle(f"late{number}")
    assert early.count > 50
    assert late.count <= 1.2 * early.count


async def test_no_statement_scans_a_table(
    store: SQLiteStateStore, connections: list[sqlite3.Connection], traced: Any
) -> None:
    """Every statement of the whole contract is explained; a scan shows as ``SCAN``."""
    statements = traced()
    await _everything(store)
    connections[0].set_trace_callback(None)
    explained = 0
    for statement in sorted(set(statements)):
        if not re.match(r"(SELECT|UPDATE|DELETE|INSERT|WITH)\b", statement.lstrip()):
            continue
        plan = connections[0].execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        explained += 1
        for *_, detail in plan:
            assert not re.match(r"SCAN (?!CONSTANT ROW|schema_version)", detail), (
                statement,
                detail,
            )
    assert explained > 40


async def _everything(store: SQLiteStateStore) -> None:
    store._reader = store._writer  # so that reads are traced too
    policy = RepairPolicy(resend_unstarted_after=0)
    key = await running(store, "a", queue_timeout=0.0, wait_timeout=0.0)
    await store.create_task(
        NewTask(task_id="b", session_id="a", service="e", input="{}", parent="a", queue_timeout=0)
    )
    await store.renew("w", [key], 1)
    await store.append_events(key, [NewEvent(0, "E", "{}")])
    await store.append_inbound("a", "e")
    await store.read_inbound(key, 0)
    await store.park(ParkRequest(key=key, snapshot="s", consumed_seq=1, next_index=1))
    await store.repair(policy)
    key = await running(store, "c", parent="a", orchestrated=True)
    await store.finish(Completion(key=key, state=TaskState.SUCCEEDED, result="r", context="c"))
    await store.routing_stage("c")
    key = await running(store, "d", max_retries=0)
    await store.expire_worker("w")
    await store.repair(policy)
    await store.release(await running(store, "f"))
    await store.complete("f", "r", {})
    for letter in await store.list_dead_letters():
        await store.retry_dead_letter(letter.letter_id)
    await store.cancel("d", "why")
    await store.merge_session_state("a", {})
    for read in (store.next_due, store.list_tasks, store.list_sessions, store.counts):
        await read()
    await store.list_tasks("a")
    await store.get_task("a")
    await store.get_input("a")
    await store.get_session("a")
    await store.read_log("a", 0, 10)
    await store.get_service("e")
    await store.list_services()
    await store.delete_service("e")
    await store.outbox_done([1])
    await store.expire(4e9)
    await store.delete_session("a")
