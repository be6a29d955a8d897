"""Several processes on one database: they compete, wake each other and do not block each other."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
import pytest

from llamadeploy.exceptions import ConflictError
from llamadeploy.state_stores.postgresql import wakeups
from llamadeploy.state_stores.records import (
    Completion,
    Dropped,
    Execution,
    NewEvent,
    NewTask,
    RepairPolicy,
    StartRequest,
)
from llamadeploy.types import TaskState


def task(task_id: str, session_id: str = "", **fields: Any) -> NewTask:
    return NewTask(
        task_id=task_id,
        session_id=session_id or task_id,
        service="echo",
        input="{}",
        new_session=not session_id,
        **fields,
    )


def request(task_id: str, execution_id: str = "x", lease: float = 60.0) -> StartRequest:
    return StartRequest(task_id=task_id, execution_id=execution_id, worker_id="w", lease=lease)


def done(run: Execution, result: str = "done") -> Completion:
    return Completion(key=run.key, state=TaskState.SUCCEEDED, result=result)


@pytest.mark.rule(1)
async def test_one_of_many_starts_wins(postgresql_server: Any, open_store: Any) -> None:
    stores = [await open_store(postgresql_server.uri) for _ in range(3)]
    for number in range(10):
        await stores[0].create_task(task(f"t{number}"))
        replies = await asyncio.gather(
            *(store.start(request(f"t{number}", f"x{n}")) for n, store in enumerate(stores))
        )
        assert sum(isinstance(reply, Execution) for reply in replies) == 1
        assert replies.count(Dropped("leased")) == 2


@pytest.mark.rule(2)
async def test_the_same_task_created_twice_at_once_exists_once(
    postgresql_server: Any, open_store: Any
) -> None:
    one, two = [await open_store(postgresql_server.uri) for _ in range(2)]
    for number in range(20):
        new = task(f"t{number}", body_hash="h")
        other = task(f"t{number}", body_hash="h") if number % 2 else new
        outcomes = await asyncio.gather(
            one.create_task(new), two.create_task(other), return_exceptions=True
        )
        created = [o for o in outcomes if not isinstance(o, BaseException)]
        assert sorted(o.existed for o in created) in ([False], [False, True])
        assert all(isinstance(o, ConflictError) for o in outcomes if isinstance(o, BaseException))
    assert len(await one.list_tasks()) == 20


@pytest.mark.rule(4)
async def test_a_session_keeps_its_order_under_many_writers(
    postgresql_server: Any, open_store: Any
) -> None:
    stores = [await open_store(postgresql_server.uri) for _ in range(3)]
    await stores[0].create_session("s")
    due: asyncio.Queue[str] = asyncio.Queue()
    order: list[str] = []

    async def create(store: Any, name: str) -> None:
        created = await store.create_task(task(name, "s"))
        for row in created.publish:
            due.put_nowait(row.task_id)

    async def work(store: Any) -> None:
        while len(order) < 30:
            run = await store.start(request(await due.get()))
            assert isinstance(run, Execution)
            order.append(run.task_id)
            for row in (await store.finish(done(run))).publish:
                due.put_nowait(row.task_id)

    workers = [asyncio.create_task(work(store)) for store in stores]
    await asyncio.gather(*(create(random.choice(stores), f"t{n}") for n in range(30)))
    await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
    for worker in workers:
        worker.cancel()
    created_order = [definition.task_id for definition in await stores[0].list_tasks("s")]
    assert order == created_order


@pytest.mark.rule(3)
async def test_many_repairs_share_what_is_due(postgresql_server: Any, open_store: Any) -> None:
    now = [1_000_000.0]
    stores = [await open_store(postgresql_server.uri, clock=lambda: now[0]) for _ in range(3)]
    for number in range(40):
        await stores[0].create_task(task(f"unpublished{number}"))
        created = await stores[0].create_task(task(f"lost{number}"))
        await stores[0].outbox_done([row.row_id for row in created.publish])
        assert isinstance(await stores[0].start(request(f"lost{number}", lease=1)), Execution)
    now[0] += 10
    seen: list[str] = []
    lost = 0
    while len(seen) < 80:
        before = len(seen)
        policy = RepairPolicy(resend_unstarted_after=None, limit=15)
        for repaired in await asyncio.gather(*(store.repair(policy) for store in stores)):
            lost += repaired.lost_leases
            seen += [row.message_id for row in repaired.publish]
        assert len(seen) > before
    assert len(set(seen)) == len(seen) == 80, "each row went to one of them"
    assert lost == 40


@pytest.mark.rule(13)
async def test_cancels_across_sessions_finish_and_renew_at_once(
    postgresql_server: Any, open_store: Any
) -> None:
    """Callers and calls in two sessions, cancelled in both directions while they are in work."""
    stores = [await open_store(postgresql_server.uri) for _ in range(3)]
    for session in ("a", "b"):
        await stores[0].create_session(session)
    for round_ in range(15):
        names = []
        for session, other in (("a", "b"), ("b", "a")):
            root, child = f"{session}{round_}", f"{session}{round_}-call"
            await stores[0].create_task(task(root, session, detached_context=True))
            await stores[0].create_task(task(child, other, detached_context=True, parent=root))
            names += [root, child]
        runs = [await stores[0].start(request(name)) for name in names]
        keys = [run.key for run in runs]
        random.shuffle(keys)
        await asyncio.gather(
            stores[0].cancel(names[0], "why"),
            stores[1].cancel(names[2], "why"),
            stores[2].renew("w", keys, 60),
            stores[1].finish(done(runs[1])),
            stores[2].repair(RepairPolicy(resend_unstarted_after=None)),
        )
    records = [await stores[0].get_task(f"{s}{n}") for s in "ab" for n in range(15)]
    assert {record.state for record in records} == {TaskState.CANCELLED}


async def test_an_operation_that_waits_for_a_lock_holds_up_no_other(
    postgresql_server: Any, open_store: Any, unique: str
) -> None:
    store = await open_store(postgresql_server.uri)
    await store.create_task(task("held"))
    await store.create_task(task("free"))
    other = await asyncpg.connect(postgresql_server.uri)
    try:
        await other.fetchval(
            "SELECT pg_advisory_lock(llamadeploy.session_key($1, $2))", unique, "held"
        )
        blocked = asyncio.ensure_future(store.start(request("held")))
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(5):
            while not await other.fetchval(waiting):
                await asyncio.sleep(0.01)
        for _ in range(3):
            # Far below the time after which an operation is given up.
            assert await asyncio.wait_for(store.get_task("free"), 5)
        assert isinstance(await asyncio.wait_for(store.start(request("free")), 5), Execution)
        assert not blocked.done()
    finally:
        await other.close()
    assert isinstance(await blocked, Execution)


@pytest.mark.rule(2)
async def test_a_new_task_with_the_id_of_a_forgotten_one_leaves_no_session(
    postgresql_server: Any, open_store: Any
) -> None:
    store = await open_store(postgresql_server.uri)
    await store.create_task(task("t"))
    await store.delete_session("t")
    with pytest.raises(ConflictError, match="existed and was forgotten"):
        await store.create_task(task("t"))
    assert await store.get_session("t") is None


@pytest.mark.rule(12)
async def test_a_follower_in_another_process_gets_the_record(
    postgresql_server: Any, open_store: Any
) -> None:
    here, there = [await open_store(postgresql_server.uri) for _ in range(2)]
    with here.follow_all() as follower:
        await there.create_task(task("t"))
        assert await follower.changed(5)
    with here.follow("t") as follower:
        run = await there.start(request("t"))
        assert await follower.changed(5)
        await there.append_events(run.key, [NewEvent(0, "E", "{}")])
        assert await follower.changed(5)
        ended = asyncio.ensure_future(follower.end(5))
        await there.finish(done(run, "result"))
        record = await ended
        assert record == await here.get_task("t")
        assert record.result == "result"


async def test_a_long_result_is_left_to_be_read(postgresql_server: Any, open_store: Any) -> None:
    here, there = [await open_store(postgresql_server.uri) for _ in range(2)]
    await here.create_task(task("t"))
    run = await there.start(request("t"))
    with here.follow("t") as follower:
        await there.finish(done(run, "x" * 20_000))
        while (record := await here.get_task("t")) is None or not record.state.terminal:
            assert await follower.end(5) is None
    assert len(record.result) == 20_000


async def test_a_lost_notification_is_made_up_for(
    postgresql_server: Any, open_store: Any, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "RESYNC_SECONDS", 0.2)
    here, there = [await open_store(postgresql_server.uri) for _ in range(2)]
    await here.create_task(task("t"))
    with here.follow("t") as follower:
        while await follower.changed(0.5):
            pass
        # As a process does that dies after its commit.
        monkeypatch.setattr(wakeups.Wakeups, "changed", lambda *_: None)
        run = await there.start(request("t"))
        assert await follower.changed(5)
        await there.finish(done(run))
        assert await follower.changed(5)


async def test_followers_survive_the_end_of_their_connection(
    postgresql_server: Any, open_store: Any, unique: str
) -> None:
    here, there = [await open_store(postgresql_server.uri) for _ in range(2)]
    await here.create_task(task("t"))
    admin = await asyncpg.connect(postgresql_server.uri)
    with here.follow("t") as follower:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'llamadeploy'"
        )
        await admin.close()
        assert await follower.changed(5), "anything may have happened meanwhile"
        run = await there.start(request("t"))
        while (await here.get_task("t")).state is not TaskState.RUNNING:
            assert await follower.changed(5)
        await there.finish(done(run))
        assert (await here.get_task("t")).state is TaskState.SUCCEEDED


async def test_what_postgresql_cannot_hold_comes_back(
    postgresql_server: Any, open_store: Any
) -> None:
    store = await open_store(postgresql_server.uri)
    odd = "a\x00b\x1ac\x1a0\\u0000\\u001a1é\U0001f600"
    await store.create_task(task(odd, **{"body_hash": odd}))
    run = await store.start(request(odd))
    assert run.task_id == odd
    await store.append_events(run.key, [NewEvent(0, odd, odd)])
    await store.finish(
        Completion(key=run.key, state=TaskState.FAILED, result=odd, data={odd: [odd]})
    )
    record = await store.get_task(odd)
    assert (record.task_id, record.result, record.data) == (odd, odd, {odd: [odd]})
    (event,) = (await store.read_log(odd, 0, 10)).events
    assert (event.type, event.data) == (odd, odd)
    await store.merge_session_state(odd, {odd: odd})
    assert (await store.get_session(odd)).state == {odd: odd}


async def test_a_failing_operation_takes_no_neighbour_of_its_batch_with_it(
    postgresql_server: Any, open_store: Any
) -> None:
    store = await open_store(f"{postgresql_server.uri}?pool_size=1")
    await store.create_task(task("taken", body_hash="h"))
    news = [task("taken", body_hash="other") if n == 5 else task(f"t{n}") for n in range(10)]
    outcomes = await asyncio.gather(
        *(store.create_task(new) for new in news), store.get_task("taken"), return_exceptions=True
    )
    assert [type(outcome).__name__ for outcome in outcomes[:10]] == [
        "ConflictError" if n == 5 else "Created" for n in range(10)
    ]
    assert outcomes[10].task_id == "taken"
    assert len(await store.list_tasks()) == 10


async def test_what_was_asked_before_the_close_is_done(
    postgresql_server: Any, open_store: Any, unique: str
) -> None:
    store = await open_store(postgresql_server.uri)
    asked = [asyncio.ensure_future(store.create_task(task(f"t{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    await store.aclose()
    assert [(await created).task_id for created in asked] == [f"t{n}" for n in range(5)]
