"""Broadcast: one attempt leads, other workers run beside it and change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.state_stores.records import Dropped, Execution, StartRequest

LEASE = 10.0


async def follow(bench: Any, worker: str, dispatch: int = 1) -> Execution | Dropped:
    reply: Execution | Dropped = await bench.store.start(
        StartRequest(
            task_id="t", execution_id=f"{worker}/{dispatch}", worker_id=worker, lease=LEASE,
            follow=dispatch,
        )
    )  # fmt: skip
    return reply


@pytest.mark.rule(15)
async def test_the_first_to_start_leads_and_the_others_follow(bench: Any) -> None:
    await bench.create()
    leader = await follow(bench, "w1")
    assert isinstance(leader, Execution) and leader.leading
    follower = await follow(bench, "w2")
    assert isinstance(follower, Execution) and not follower.leading
    assert (follower.attempt, follower.input, follower.alone) == (1, leader.input, False)
    assert await follow(bench, "w1", 1) == leader, "a repeated question"
    assert await bench.dropped() == "leased", "who does not follow"
    record = await bench.record()
    assert (record.owner, record.attempt, record.runs) == ("w1", 1, 2)
    (renewal,) = await bench.store.renew("w2", [follower.key], LEASE)
    assert (renewal.alive, renewal.live, renewal.cancelled) == (False, True, False)
    await bench.store.append_inbound("t", "e")
    (renewal,) = await bench.store.renew("w2", [follower.key], LEASE)
    assert renewal.inbound_seq == 1, "followers hear of events"
    assert len(await bench.store.read_inbound(follower.key, 0)) == 1
    await bench.finish(leader.key, "led", context="led")
    (renewal,) = await bench.store.renew("w2", [follower.key], LEASE)
    assert not renewal.live
    late = await follow(bench, "w3")
    assert isinstance(late, Execution) and not late.leading
    record = await bench.record()
    assert (record.state, record.result, record.runs) == ("succeeded", "led", 3)


@pytest.mark.rule(15)
async def test_a_lost_leader_is_replaced_by_who_comes_first(bench: Any, ids: Any) -> None:
    await bench.create()
    old = await follow(bench, "w1")
    second = await follow(bench, "w2")
    assert isinstance(old, Execution) and isinstance(second, Execution)
    await bench.store.expire_worker("w1")
    assert "t/2" in ids((await bench.repair()).publish)
    (renewal,) = await bench.store.renew("w2", [second.key], LEASE)
    assert renewal.live
    leader = await follow(bench, "w2", 2)
    assert isinstance(leader, Execution) and leader.leading
    assert (leader.attempt, leader.snapshot, leader.base_index) == (2, None, 0)
    third = await follow(bench, "w3", 2)
    assert isinstance(third, Execution) and not third.leading
    assert not (await bench.finish(old.key, "stale")).accepted
    assert (await bench.finish(leader.key, "led")).accepted
    assert (await bench.record()).runs == 4


@pytest.mark.rule(15)
async def test_followers_of_a_parked_task(bench: Any) -> None:
    await bench.create()
    leader = await follow(bench, "w1")
    assert isinstance(leader, Execution)
    await bench.park(leader.key, next_index=3)
    late = await follow(bench, "w2")
    assert isinstance(late, Execution), "it has not run the part before the wait yet"
    assert (late.snapshot, late.base_index, late.leading) == (None, 0, False)
    assert isinstance(await follow(bench, "w2", 2), Dropped), "there is no such dispatch yet"
    await bench.store.append_inbound("t", "e")
    resumed = await follow(bench, "w2", 2)
    assert isinstance(resumed, Execution) and resumed.leading
    beside = await follow(bench, "w1", 2)
    assert isinstance(beside, Execution) and not beside.leading
    assert (beside.snapshot, beside.base_index) == (resumed.snapshot, 3)
    assert resumed.snapshot == f"snapshot of {leader.attempt}"
    very_late = await follow(bench, "w3", 1)
    assert isinstance(very_late, Execution)
    assert (very_late.snapshot, very_late.base_index, very_late.inbound) == (
        None,
        0,
        beside.inbound,
    )


async def test_what_was_cancelled_is_not_followed(bench: Any) -> None:
    await bench.create()
    leader = await follow(bench, "w1")
    follower = await follow(bench, "w2")
    assert isinstance(leader, Execution) and isinstance(follower, Execution)
    await bench.store.cancel("t", "why")
    (renewal,) = await bench.store.renew("w2", [follower.key], LEASE)
    assert (renewal.cancelled, renewal.live) == (True, False)
    assert isinstance(await follow(bench, "w3"), Dropped)
