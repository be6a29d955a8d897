"""Attempts: who may run a task, and what becomes of a lost one."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.state_stores.records import Dropped, Execution, ExecutionKey


async def test_start_and_finish(bench: Any) -> None:
    run = await bench.running()
    assert (run.attempt, run.input, run.context, run.snapshot) == (
        1,
        '{"message": "hello"}',
        None,
        None,
    )
    assert (run.base_index, run.inbound, run.alone, run.keep_context) == (0, (), False, True)
    record = await bench.record()
    assert (record.state, record.owner, record.started_at) == ("running", "w", bench.clock.now)
    bench.clock.advance(1)
    finished = await bench.finish(run.key, "hello", data={"k": [1]})
    assert finished.accepted
    record = await bench.record()
    assert (record.state, record.result, record.data) == ("succeeded", "hello", {"k": [1]})
    assert (record.finished_at, record.owner) == (bench.clock.now, None)


@pytest.mark.rule(1)
async def test_a_second_delivery_is_dropped(bench: Any) -> None:
    run = await bench.running()
    assert await bench.dropped() == "leased"
    await bench.finish(run.key)
    assert await bench.dropped() == "terminal"
    assert await bench.dropped("nobody") == "unknown"


async def test_a_repeated_start_gets_its_own_attempt(bench: Any) -> None:
    await bench.create()
    first = await bench.try_start(execution_id="x")
    bench.clock.advance(9)
    again = await bench.try_start(execution_id="x")
    assert again == first
    bench.clock.advance(9)
    assert await bench.dropped() == "leased", "the repeat renewed the lease"


async def test_a_repeated_finish_is_accepted_and_changes_nothing(bench: Any) -> None:
    run = await bench.running()
    await bench.finish(run.key, "one")
    before = await bench.record()
    bench.clock.advance(1)
    assert (await bench.finish(run.key, "one")).accepted
    assert not (await bench.finish(run.key, "two")).accepted
    assert not (await bench.finish(run.key, "one", failed=True)).accepted
    assert await bench.record() == before


async def test_leases_are_renewed(bench: Any) -> None:
    run = await bench.running()
    for _ in range(5):
        bench.clock.advance(6)
        (renewal,) = await bench.store.renew("w", [run.key], 10)
        assert renewal.alive
    assert (await bench.repair()).lost_leases == 0
    await bench.store.append_inbound("t", "e")
    (renewal,) = await bench.store.renew("w", [run.key], 10)
    assert renewal.inbound_seq == 1


@pytest.mark.rule(10)
async def test_custody_is_counted_until_the_attempt_ends(bench: Any, ids: Any) -> None:
    ended = (await bench.running("a", session_id="a")).key
    parked = (await bench.running("b", session_id="b")).key
    lost = (await bench.running("c", session_id="c")).key
    await bench.running("d", session_id="d")
    for _ in range(2):
        renewals = await bench.store.renew("w", [ended, parked, lost], 10, custody=True)
        assert all(renewal.alive for renewal in renewals)
    load = await bench.store.service_load("echo")
    assert (load.custody, load.running) == (3, {"w": 4})
    await bench.store.renew("w", [ended, parked, lost], 10)
    assert (await bench.store.service_load("echo")).custody == 3, "renewals keep it"
    (other,) = await bench.store.renew("another worker", [lost], 10, custody=True)
    assert not other.alive
    await bench.finish(ended)
    await bench.park(parked)
    load = await bench.store.service_load("echo")
    assert (load.custody, load.waiting) == (1, 1)
    bench.clock.advance(11)
    # The queue has no message of it any more, and is said to be durable and not empty.
    assert "c/2" in ids((await bench.repair(resend=None)).publish)
    assert (await bench.store.service_load("echo")).custody == 0
    await bench.start("c")
    assert (await bench.store.service_load("echo")).custody == 0, "it was of an older attempt"


async def test_renewals_come_in_order_and_tell_what_is_over(bench: Any) -> None:
    cancelled = (await bench.running("a", session_id="a")).key
    alive = (await bench.running("b", session_id="b")).key
    done = (await bench.running("c", session_id="c")).key
    unknown = ExecutionKey("d", 1)
    await bench.store.cancel("a", "why")
    await bench.finish(done)
    keys = [cancelled, alive, done, unknown]
    renewals = await bench.store.renew("w", keys, 10)
    assert [renewal.key for renewal in renewals] == keys
    assert [renewal.alive for renewal in renewals] == [False, True, False, False]
    assert [renewal.cancelled for renewal in renewals] == [True, False, False, False]
    (other,) = await bench.store.renew("another worker", [alive], 10)
    assert not other.alive


@pytest.mark.rule(1)
async def test_a_stale_attempt_changes_nothing(bench: Any, events: Any) -> None:
    """A worker that was stopped and wakes up after another one took over."""
    old = (await bench.running(body_hash="")).key
    bench.clock.advance(11)
    new = await bench.start(worker="w2")
    assert new.attempt == 2
    await bench.store.append_inbound("t", "e")
    before = await bench.record()
    assert not await bench.store.append_events(old, events(0, 3))
    assert await bench.store.read_inbound(old, 0) == []
    assert not (await bench.park(old)).accepted
    assert not (await bench.store.release(old)).accepted
    assert not (await bench.finish(old, "stale", context="stale")).accepted
    (renewal,) = await bench.store.renew("w", [old], 10)
    assert not renewal.alive
    assert await bench.record() == before
    assert (await bench.store.read_log("t", 0, 10)).events == ()
    assert (await bench.finish(new.key, "fresh")).accepted
    assert (await bench.record()).result == "fresh"


async def test_an_expired_lease_that_nobody_took_is_still_current(bench: Any) -> None:
    run = await bench.running()
    bench.clock.advance(100)
    assert (await bench.store.renew("w", [run.key], 10))[0].alive
    bench.clock.advance(100)
    assert (await bench.finish(run.key)).accepted


@pytest.mark.rule(5)
async def test_release_hands_back_without_counting(bench: Any, ids: Any) -> None:
    run = await bench.running(max_retries=0)
    for dispatch in range(2, 6):
        released = await bench.store.release(run.key)
        assert ids(released.publish) == [f"t/{dispatch}"]
        assert (await bench.record()).state == "queued"
        run = await bench.start()
        assert run.attempt == dispatch
    assert (await bench.record()).crashes == 0
    assert not run.alone


@pytest.mark.parametrize("found_by", ["repair", "delivery"])
@pytest.mark.rule(5)
async def test_lost_leases_are_retried_then_given_up(bench: Any, found_by: str) -> None:
    await bench.create(max_retries=2)
    alone = []
    for attempt in (1, 2, 3):
        run = await bench.start(worker=f"w{attempt}")
        assert run.attempt == attempt
        alone.append(run.alone)
        bench.clock.advance(11)
        if found_by == "repair":
            repaired = await bench.repair()
            assert repaired.lost_leases == 1
            assert repaired.dead_lettered == (("t",) if attempt == 3 else ())
            expected = [] if attempt == 3 else [f"t/{attempt + 1}"]
            assert [row.message_id for row in repaired.publish] == expected
    assert alone == [False, False, True], "the last permitted attempt runs alone"
    assert await bench.dropped() == "terminal"
    record = await bench.record()
    assert (record.state, record.attempt, record.crashes) == ("failed", 3, 3)
    assert record.data["state"] == "failed"
    error = record.data["error"]
    assert (error["type"], error["traceback"]) == ("WorkerLost", "")
    assert error["message"] == record.result
    assert "'w3'" in error["message"]
    (letter,) = await bench.store.list_dead_letters()
    assert (letter.task_id, letter.service) == ("t", "echo")


async def test_no_retries_means_one_attempt(bench: Any) -> None:
    run = await bench.running(max_retries=0)
    assert not run.alone
    bench.clock.advance(11)
    assert (await bench.repair()).dead_lettered == ("t",)


async def test_a_dead_worker_is_not_waited_for(bench: Any, ids: Any) -> None:
    await bench.running("a", session_id="a")
    await bench.running("b", session_id="b")
    await bench.create("c", session_id="c")
    assert isinstance(await bench.try_start("c", worker="other"), Execution)
    assert await bench.store.expire_worker("w") == 2
    assert await bench.store.expire_worker("w") == 0
    repaired = await bench.repair()
    assert sorted(ids(repaired.publish)) == ["a/2", "b/2"]
    assert await bench.state("c") == "running"


@pytest.mark.rule(5)
async def test_an_error_is_terminal(bench: Any) -> None:
    run = await bench.running(max_retries=5)
    assert (await bench.finish(run.key, "boom", failed=True)).publish == ()
    assert (await bench.record()).state == "failed"
    assert await bench.store.list_dead_letters() == []


@pytest.mark.rule(5)
async def test_retry_on_error(bench: Any, ids: Any) -> None:
    run = await bench.running(max_retries=1, retry_on_error=True)
    failed = await bench.finish(run.key, "boom", failed=True, context="bad")
    assert failed.accepted
    assert ids(failed.publish) == ["t/2"]
    run = await bench.start()
    assert run.context is None
    assert (await bench.finish(run.key, "boom again", failed=True)).publish == ()
    record = await bench.record()
    assert (record.state, record.result, record.attempt) == ("failed", "boom again", 2)


async def test_what_is_not_retryable_is_not_retried(bench: Any) -> None:
    run = await bench.running(max_retries=3, retry_on_error=True)
    await bench.finish(run.key, "bad input", failed=True, retryable=False)
    assert await bench.state() == "failed"


async def test_errors_and_crashes_share_the_retries(bench: Any) -> None:
    run = await bench.running(max_retries=1, retry_on_error=True)
    await bench.finish(run.key, "boom", failed=True)
    await bench.start()
    bench.clock.advance(11)
    assert (await bench.repair()).dead_lettered == ("t",)


async def test_complete_from_outside(bench: Any, events: Any) -> None:
    """A foreign service takes the task from the queue without asking for an attempt."""
    await bench.create("a")
    await bench.create("b")
    assert await bench.store.append_foreign_event("a", events(0, 0)[0])
    finished = await bench.store.complete("a", "foreign", {"k": 1})
    assert finished.accepted
    assert [row.message_id for row in finished.publish] == ["b/1"]
    record = await bench.record("a")
    assert (record.state, record.result, record.event_count) == ("succeeded", "foreign", 1)
    assert not (await bench.store.complete("a", "again", {})).accepted
    assert not (await bench.store.complete("nobody", "x", {})).accepted
    assert not await bench.store.append_foreign_event("a", events(1, 1)[0])
    failed = {"state": "failed", "error": {"type": "E", "message": "m", "traceback": ""}}
    await bench.store.complete("b", "m", failed)
    assert (await bench.record("b")).state == "failed"


async def test_only_one_of_many_starts_wins(bench: Any) -> None:
    import asyncio

    await bench.create()
    replies = await asyncio.gather(*(bench.try_start(worker=f"w{n}") for n in range(20)))
    assert len([reply for reply in replies if isinstance(reply, Execution)]) == 1
    assert [r for r in replies if isinstance(r, Dropped)] == [Dropped("leased")] * 19


async def test_a_queued_task_is_given_up_and_can_be_retried(bench: Any) -> None:
    await bench.create("a", session_id="1")
    await bench.create("b", session_id="1")
    ended = await bench.store.give_up("a", "its message is lost")
    assert ended.accepted
    assert [row.task_id for row in ended.publish] == ["b"]
    record = await bench.record("a")
    assert (record.state, record.result) == ("failed", "its message is lost")
    [letter] = await bench.store.list_dead_letters()
    assert (letter.task_id, letter.reason) == ("a", "its message is lost")
    await bench.store.retry_dead_letter(letter.letter_id)
    assert (await bench.record("a")).state == "queued"


async def test_what_is_in_work_or_over_is_not_given_up(bench: Any) -> None:
    await bench.running("running", session_id="1")
    await bench.park((await bench.running("waiting", session_id="2")).key)
    await bench.finish((await bench.running("over", session_id="3")).key)
    for task in ("running", "waiting", "over", "unknown"):
        assert not (await bench.store.give_up(task, "its message is lost")).accepted
    assert await bench.store.list_dead_letters() == []
