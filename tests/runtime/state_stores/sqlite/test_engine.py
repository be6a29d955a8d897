"""The writer thread: one transaction for what is queued, and who fails with whom."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.exceptions import ConflictError, StoreError, StoreUnavailableError
from llamadeploy.state_stores.records import NewTask
from llamadeploy.state_stores.sqlite import connection as connection_module
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore
from llamadeploy.state_stores.sqlite.transaction import Tx


async def hold(store: SQLiteStateStore) -> tuple[asyncio.Future[Any], threading.Event]:
    """Occupy the writer until the event is set, so that what follows shares one batch."""
    entered, go = threading.Event(), threading.Event()

    def wait(tx: Tx) -> None:
        entered.set()
        assert go.wait(20)

    held = store._writer.submit(wait)
    await asyncio.to_thread(entered.wait, 20)
    return held, go


async def test_what_is_queued_shares_one_transaction(
    store: SQLiteStateStore, traced: Callable[[], list[str]]
) -> None:
    held, go = await hold(store)
    statements = traced()
    calls = [asyncio.ensure_future(store.create_session(f"s{n}")) for n in range(100)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(held, *calls)
    assert statements.count("COMMIT") == 2, "the held one's, and one for the hundred"
    assert len(await store.list_sessions()) == 100


async def test_an_operation_alone_does_not_wait_for_others(
    store: SQLiteStateStore, traced: Callable[[], list[str]]
) -> None:
    statements = traced()
    for number in range(3):
        await store.create_session(f"s{number}")
        assert statements.count("COMMIT") == number + 1


async def test_one_that_fails_is_rolled_back_alone(store: SQLiteStateStore) -> None:
    def half(tx: Tx) -> None:
        tx.conn.execute("INSERT INTO sessions VALUES ('ns', 'half', '{}', 0, 0, 0)")
        raise ConflictError("after the insert")

    def twice(tx: Tx) -> None:
        for _ in range(2):
            tx.conn.execute("INSERT INTO sessions VALUES ('ns', 'twice', '{}', 0, 0, 0)")

    held, go = await hold(store)
    good = [asyncio.ensure_future(store.create_session(f"s{n}")) for n in range(2)]
    await asyncio.sleep(0)
    bad = store._writer.submit(half)
    integrity = store._writer.submit(twice)
    good.append(asyncio.ensure_future(store.create_session("s2")))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(held, *good)
    with pytest.raises(ConflictError, match="after the insert"):
        await bad
    with pytest.raises(StoreError, match="UNIQUE constraint"):
        await integrity
    assert [s.session_id for s in await store.list_sessions()] == ["s0", "s1", "s2"]


async def test_a_commit_that_fails_fails_all_of_its_batch(store: SQLiteStateStore) -> None:
    def break_commit(tx: Tx) -> None:
        """A deferred constraint is checked by the commit."""
        tx.conn.execute("PRAGMA defer_foreign_keys = ON")
        tx.conn.execute("INSERT INTO child VALUES (1)")

    def prepare(tx: Tx) -> None:
        tx.conn.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        tx.conn.execute("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")

    await store._writer.submit(prepare)
    held, go = await hold(store)
    calls = [asyncio.ensure_future(store.create_session(f"s{n}")) for n in range(3)]
    await asyncio.sleep(0)
    broken = store._writer.submit(break_commit)
    conn = store._writer.submit(lambda tx: tx.conn)
    go.set()
    await held
    # Foreign keys are off by default and cannot be switched inside a transaction.
    await asyncio.gather(broken, conn, *calls)
    (await conn).execute("PRAGMA foreign_keys = ON")
    held, go = await hold(store)
    calls = [asyncio.ensure_future(store.create_session(f"f{n}")) for n in range(3)]
    await asyncio.sleep(0)
    broken = store._writer.submit(break_commit)
    go.set()
    await held
    results = await asyncio.gather(broken, *calls, return_exceptions=True)
    assert [type(result) for result in results] == [StoreError] * 4
    assert [s.session_id for s in await store.list_sessions()] == ["s0", "s1", "s2"]
    await store.create_session("after")


async def test_a_bug_in_an_operation_reaches_its_caller_alone(store: SQLiteStateStore) -> None:
    with pytest.raises(ZeroDivisionError):
        await store._writer.submit(lambda tx: 1 / 0)
    await store.ping()


async def test_cancelling_a_caller_does_not_take_the_operation_back(
    store: SQLiteStateStore,
) -> None:
    held, go = await hold(store)
    call = asyncio.ensure_future(store.create_session("s"))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    go.set()
    await held
    await store.ping()
    assert call.cancelled()
    assert await store.get_session("s") is not None


async def test_close_finishes_what_is_queued(store: SQLiteStateStore, path: Path) -> None:
    held, go = await hold(store)
    calls = [asyncio.ensure_future(store.create_session(f"s{n}")) for n in range(600)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(held, closing, *calls)
    with pytest.raises(StoreError, match="closed"):
        await store.get_session("s0")
    again = await SQLiteStateStore.open(f"sqlite:///{path}", "ns")
    assert len(await again.list_sessions()) == 600
    await again.aclose()


async def test_a_locked_file_is_unavailable_and_works_again_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BUSY_SECONDS", 0.05)
    store = await SQLiteStateStore.open(f"sqlite:///{path}", "ns")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked"):
        await store.create_session("s")
    assert await store.get_session("s") is None, "readers go on"
    with pytest.raises(StoreUnavailableError, match="locked"):
        await SQLiteStateStore.open(f"sqlite:///{path}", "other")
    other.execute("ROLLBACK")
    other.close()
    await store.create_session("s")
    await store.aclose()


async def test_followers_that_left_cost_nothing(store: SQLiteStateStore) -> None:
    with store.follow("t") as one, store.follow("t"):
        assert len(store._followers) == 2
        assert not await one.changed(0)
    assert len(store._followers) == 0


async def test_a_long_read_delays_no_writer(store: SQLiteStateStore) -> None:
    go = threading.Event()
    reading = store._reader.submit(lambda tx: go.wait(20))
    await asyncio.wait_for(store.create_session("s"), 10)
    assert not reading.done()
    go.set()
    await reading


async def test_a_listing_is_read_in_pages(
    store: SQLiteStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamadeploy.state_stores.sqlite.store.PAGE", 3)
    for number in range(10):
        task = NewTask(
            task_id=f"t{number}",
            session_id=f"s{number}",
            service="echo",
            input="{}",
            new_session=True,
        )
        await store.create_task(task)
    assert [t.task_id for t in await store.list_tasks()] == [f"t{n}" for n in range(10)]
    assert [s.session_id for s in await store.list_sessions()] == [f"s{n}" for n in range(10)]
