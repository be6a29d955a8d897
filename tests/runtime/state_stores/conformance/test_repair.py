"""The outbox, and what the timer puts right."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.state_stores.records import RepairPolicy


async def test_a_row_that_was_published_is_gone(bench: Any) -> None:
    created = await bench.create()
    await bench.store.outbox_done([row.row_id for row in created.publish])
    await bench.store.outbox_done([row.row_id for row in created.publish])
    assert (await bench.store.counts())["outbox"] == 0
    bench.clock.advance(1000)
    assert (await bench.repair()).publish == ()


async def test_a_row_that_was_not_published_is_leased_by_the_timer(bench: Any) -> None:
    created = await bench.create()
    assert (await bench.repair()).publish == (), "the creator has it for a few seconds"
    due = await bench.store.next_due()
    assert bench.clock.now < due <= bench.clock.now + 10
    bench.clock.now = due
    assert (await bench.repair()).publish == created.publish
    assert (await bench.repair()).publish == (), "leased"
    bench.clock.advance(5)
    assert (await bench.repair()).publish == created.publish, "the publisher died"


async def test_a_row_is_moot_once_the_task_was_started(bench: Any) -> None:
    await bench.create()
    await bench.start()
    bench.clock.advance(6)
    assert (await bench.repair()).publish == ()
    assert (await bench.store.counts())["outbox"] == 0


async def test_a_late_done_does_not_take_another_row(bench: Any) -> None:
    """Row numbers are never used twice."""
    created = await bench.create()
    run = await bench.start()
    released = await bench.store.release(run.key)
    await bench.store.outbox_done([created.publish[0].row_id])
    bench.clock.advance(6)
    assert (await bench.repair()).publish == released.publish


@pytest.mark.rule(3)
async def test_unstarted_tasks_are_published_again_with_the_same_id(bench: Any) -> None:
    created = await bench.create()
    await bench.store.outbox_done([created.publish[0].row_id])
    bench.clock.advance(4)
    assert (await bench.repair(resend=None)).publish == (), "a durable backlog is not multiplied"
    assert (await bench.repair(resend=5)).publish == ()
    assert await bench.store.next_due() == bench.clock.now + 1
    bench.clock.advance(1)
    (row,) = (await bench.repair(resend=5)).publish
    assert row.message_id == created.publish[0].message_id
    assert row.input == '{"message": "hello"}'
    await bench.store.outbox_done([row.row_id])
    assert (await bench.repair(resend=5)).publish == (), "counted anew"
    bench.clock.advance(5)
    assert len((await bench.repair(resend=5)).publish) == 1


@pytest.mark.rule(3)
async def test_one_services_backlog_keeps_no_lost_task_of_another(bench: Any, ids: Any) -> None:
    for number in range(3):
        for service in ("busy", "idle"):
            name = f"{service}{number}"
            created = await bench.create(name, session_id=name, service=service)
            await bench.store.outbox_done([created.publish[0].row_id])
    bench.clock.advance(5)
    assert (await bench.repair(resend=5, services=())).publish == ()
    assert (await bench.repair(resend=6, services=("idle",))).publish == ()
    found = (await bench.repair(resend=5, services=("idle", "unknown"))).publish
    assert sorted(ids(found)) == ["idle0/1", "idle1/1", "idle2/1"]
    assert (await bench.repair(resend=5, services=("idle",))).publish == (), "counted anew"
    due = await bench.store.next_due()
    assert due is None or due > bench.clock.now, "a backlog is not due"
    assert len((await bench.repair(resend=5)).publish) == 3


async def test_a_row_and_a_resend_do_not_double(bench: Any) -> None:
    await bench.create()
    bench.clock.advance(60)
    assert len((await bench.repair(resend=1)).publish) == 1
    assert (await bench.store.counts())["outbox"] == 1


async def test_a_task_behind_another_is_not_resent(bench: Any, ids: Any) -> None:
    created = await bench.create("a")
    await bench.store.outbox_done([created.publish[0].row_id])
    await bench.create("b")
    bench.clock.advance(60)
    assert ids((await bench.repair(resend=1)).publish) == ["a/1"]


async def test_queue_timeout(bench: Any) -> None:
    await bench.create("late", session_id="1", queue_timeout=30.0)
    await bench.create("started", session_id="2", queue_timeout=30.0)
    run = await bench.start("started")
    bench.clock.advance(29)
    await bench.store.renew("w", [run.key], 100)
    assert (await bench.repair()).timed_out == ()
    bench.clock.advance(1)
    assert (await bench.repair()).timed_out == ("late",)
    record = await bench.record("late")
    assert (record.state, record.data["error"]["type"]) == ("failed", "QueueTimeout")
    assert await bench.state("started") == "running"
    assert (await bench.store.counts())["outbox"] == 0
    assert await bench.dropped("late") == "terminal"


async def test_queue_timeout_of_a_whole_session(bench: Any) -> None:
    for task in "abc":
        await bench.create(task, queue_timeout=30.0)
    bench.clock.advance(31)
    repaired = await bench.repair()
    assert sorted(repaired.timed_out) == ["a", "b", "c"]
    assert repaired.publish == (), "none of them was handed out meanwhile"
    assert (await bench.store.counts())["failed"] == 3
    assert (await bench.store.counts())["outbox"] == 0


async def test_the_limit_is_kept_and_nothing_starves(bench: Any) -> None:
    for number in range(10):
        await bench.create(f"t{number}", session_id=f"s{number}")
    bench.clock.advance(6)
    seen: list[str] = []
    for _ in range(4):
        repaired = await bench.store.repair(RepairPolicy(resend_unstarted_after=None, limit=3))
        assert len(repaired.publish) <= 3
        seen += [row.task_id for row in repaired.publish]
    assert sorted(seen) == sorted(f"t{number}" for number in range(10))


async def test_nothing_is_due_when_nothing_is_there(bench: Any) -> None:
    assert await bench.store.next_due() is None
    run = await bench.running()
    assert await bench.store.next_due() == bench.clock.now + 10
    await bench.finish(run.key)
    assert await bench.store.next_due() is None
