"""Human in the loop: inbound events and parking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def test_events_before_the_start_wait_in_the_log(bench: Any) -> None:
    await bench.create()
    outcome = await bench.store.append_inbound("t", "e1")
    assert (outcome.seq, outcome.state, outcome.owner, outcome.publish) == (1, "queued", None, ())
    run = await bench.start()
    assert [(event.seq, event.event) for event in run.inbound] == [(1, "e1")]
    outcome = await bench.store.append_inbound("t", "e2")
    assert (outcome.seq, outcome.owner) == (2, "w")
    assert [e.event for e in await bench.store.read_inbound(run.key, 1)] == ["e2"]


async def test_an_ended_task_takes_no_event(bench: Any) -> None:
    run = await bench.running()
    await bench.finish(run.key)
    outcome = await bench.store.append_inbound("t", "late")
    assert (outcome.state, outcome.owner, outcome.publish) == ("succeeded", None, ())


async def test_park_and_resume(bench: Any, ids: Any, events: Any) -> None:
    run = await bench.running()
    await bench.store.append_inbound("t", "e1")
    parked = await bench.park(
        run.key,
        consumed=1,
        snapshot="snap",
        next_index=3,
        events=events(0, 2),
        code_version="v1",
        run_seconds=1.5,
    )
    assert parked.accepted
    assert parked.publish == ()
    record = await bench.record()
    assert (record.state, record.owner, record.wait_deadline) == ("waiting", None, None)
    assert await bench.dropped() == "not_due"
    assert (await bench.repair(resend=0)).publish == ()
    outcome = await bench.store.append_inbound("t", "e2")
    assert (outcome.seq, outcome.owner) == (2, None)
    assert ids(outcome.publish) == ["t/2"]
    resumed = await bench.start()
    assert (resumed.attempt, resumed.snapshot, resumed.context) == (2, "snap", None)
    assert (resumed.base_index, resumed.consumed_seq) == (3, 1)
    assert [event.event for event in resumed.inbound] == ["e2"]
    assert (resumed.parked_code_version, resumed.run_seconds) == ("v1", 1.5)
    assert not resumed.wait_expired


async def test_a_park_that_comes_second_resumes_at_once(bench: Any, ids: Any) -> None:
    run = await bench.running()
    await bench.store.append_inbound("t", "just before the park")
    parked = await bench.park(run.key, consumed=0)
    assert parked.accepted
    assert ids(parked.publish) == ["t/2"]
    assert await bench.state() == "queued"


async def test_several_events_for_a_parked_task_make_one_row(bench: Any) -> None:
    run = await bench.running()
    await bench.park(run.key)
    outcomes = await asyncio.gather(*(bench.store.append_inbound("t", f"e{n}") for n in range(5)))
    assert sum(len(outcome.publish) for outcome in outcomes) == 1
    assert len((await bench.start()).inbound) == 5


async def test_a_repeated_park_is_accepted(bench: Any) -> None:
    run = await bench.running()
    await bench.park(run.key)
    again = await bench.park(run.key)
    assert again.accepted
    assert again.publish == ()
    await bench.store.append_inbound("t", "e")
    assert (await bench.park(run.key)).accepted
    assert await bench.state() == "queued", "the repeat must not park it again"
    await bench.start()
    assert not (await bench.park(run.key)).accepted


async def test_a_lost_attempt_starts_again_from_the_last_snapshot(bench: Any) -> None:
    run = await bench.running()
    await bench.park(run.key, snapshot="snap", next_index=2)
    await bench.store.append_inbound("t", "answer")
    await bench.start()
    bench.clock.advance(11)
    await bench.repair()
    again = await bench.start()
    assert (again.attempt, again.snapshot, again.base_index) == (3, "snap", 2)
    assert [event.event for event in again.inbound] == ["answer"]


async def test_at_its_deadline_a_waiter_is_woken(bench: Any, ids: Any) -> None:
    run = await bench.running()
    await bench.park(run.key, deadline=bench.clock.now + 60)
    assert (await bench.record()).wait_deadline == bench.clock.now + 60
    assert await bench.store.next_due() == bench.clock.now + 60
    bench.clock.advance(59)
    assert (await bench.repair()).publish == ()
    bench.clock.advance(1)
    assert ids((await bench.repair()).publish) == ["t/2"]
    resumed = await bench.start()
    assert resumed.wait_expired
    await bench.park(resumed.key)
    await bench.store.append_inbound("t", "e")
    assert not (await bench.start()).wait_expired


@pytest.mark.rule(8)
async def test_wait_timeout_counts_from_the_park_that_nobody_answered(bench: Any) -> None:
    await bench.create("t", wait_timeout=100.0)
    await bench.create("next")
    run = await bench.start()
    assert run.wait_timeout == 100.0
    start = bench.clock.now
    await bench.park(run.key, deadline=start + 90)
    bench.clock.advance(90)
    await bench.repair()
    resumed = await bench.start()
    await bench.park(resumed.key)
    assert (await bench.record()).wait_deadline == start + 100
    bench.clock.advance(10)
    repaired = await bench.repair()
    assert repaired.timed_out == ("t",)
    assert [row.message_id for row in repaired.publish] == ["next/1"]
    record = await bench.record()
    assert record.state == "failed"
    assert record.data["error"]["type"] == "WaitTimeout"
    assert "100 s" in record.result


async def test_an_answer_gives_the_next_wait_its_whole_time(bench: Any) -> None:
    await bench.create("t", wait_timeout=100.0)
    run = await bench.start()
    await bench.park(run.key)
    bench.clock.advance(90)
    await bench.store.append_inbound("t", "an answer")
    resumed = await bench.start()
    await bench.park(resumed.key, consumed=1)
    assert (await bench.record()).wait_deadline == bench.clock.now + 100


@pytest.mark.rule(4)
async def test_a_waiting_head_blocks_its_session(bench: Any, ids: Any) -> None:
    run = await bench.running("a")
    await bench.create("b")
    await bench.park(run.key)
    assert await bench.dropped("b") == "not_due"
    assert (await bench.repair(resend=0)).publish == ()
    cancelled = await bench.store.cancel("a", "nobody home")
    assert ids(cancelled.publish) == ["b/1"]


@pytest.mark.parametrize("park_first", [True, False])
@pytest.mark.rule(7)
async def test_park_and_append_never_miss_each_other(bench: Any, park_first: bool) -> None:
    for number in range(20):
        task = f"t{number}"
        run = await bench.running(task, session_id=task)
        calls = [bench.park(run.key), bench.store.append_inbound(task, "e")]
        one, two = await asyncio.gather(*(calls if park_first else reversed(calls)))
        assert len(one.publish) + len(two.publish) == 1
        assert [event.event for event in (await bench.start(task)).inbound] == ["e"]


async def test_who_follows_all_is_woken_by_any_task(bench: Any) -> None:
    with bench.store.follow_all() as follower:
        await bench.create()
        assert await follower.changed(5)
        run = await bench.start()
        assert await follower.changed(5)
        await bench.finish(run.key)
        assert await follower.changed(5)
        assert not await follower.changed(0)
