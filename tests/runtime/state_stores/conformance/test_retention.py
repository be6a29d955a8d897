"""Forgetting what is finished, and dead letters."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.exceptions import ConflictError, NotFoundError

DAY = 86400.0


async def done(bench: Any, task: str, **fields: Any) -> None:
    await bench.finish((await bench.running(task, **fields)).key, context="c")


@pytest.mark.rule(17)
async def test_finished_tasks_expire_and_leave_a_tombstone(bench: Any, events: Any) -> None:
    await done(bench, "old", session_id="1")
    bench.clock.advance(100)
    await done(bench, "new", session_id="2")
    assert await bench.store.expire(bench.clock.now - 50) == 1
    assert await bench.store.get_task("old") is None
    assert await bench.store.get_session("1") is None
    assert await bench.state("new") == "succeeded"
    assert await bench.store.get_session("2") is not None
    assert await bench.dropped("old") == "terminal"
    with pytest.raises(ConflictError, match="was forgotten"):
        await bench.create("old")
    with pytest.raises(NotFoundError):
        await bench.store.read_log("old", 0, 1)


async def test_tombstones_go_after_a_week(bench: Any) -> None:
    await done(bench, "old")
    bench.clock.advance(100)
    await bench.store.expire(bench.clock.now)
    bench.clock.advance(6.9 * DAY)
    await bench.store.expire(bench.clock.now)
    assert await bench.dropped("old") == "terminal"
    bench.clock.advance(0.2 * DAY)
    await bench.store.expire(bench.clock.now)
    assert await bench.dropped("old") == "unknown"


@pytest.mark.rule(17)
async def test_live_tasks_pin_their_session_and_context(bench: Any) -> None:
    await done(bench, "old")
    await bench.park((await bench.running("waiting")).key)
    bench.clock.advance(30 * DAY)
    assert await bench.store.expire(bench.clock.now) == 1
    assert await bench.state("waiting") == "waiting"
    session = await bench.store.get_session("s")
    assert session.task_ids == ["waiting"]
    await bench.store.cancel("waiting", "enough")
    assert (await bench.running("next")).context == "c"


async def test_a_live_caller_keeps_its_finished_calls(bench: Any) -> None:
    run = await bench.running("parent")
    await done(bench, "child", service="other", parent="parent")
    bench.clock.advance(100)
    assert await bench.store.expire(bench.clock.now) == 0
    await bench.finish(run.key)
    bench.clock.advance(100)
    assert await bench.store.expire(bench.clock.now) == 2


async def test_idle_sessions_without_tasks_go_too(bench: Any) -> None:
    await bench.store.create_session("idle")
    await bench.store.create_session("used")
    bench.clock.advance(100)
    await bench.store.merge_session_state("used", {"k": 1})
    await bench.store.expire(bench.clock.now - 50)
    assert [s.session_id for s in await bench.store.list_sessions()] == ["used"]
    bench.clock.advance(100)
    await bench.store.expire(bench.clock.now - 50)
    assert await bench.store.list_sessions() == []


async def test_the_limit_is_kept(bench: Any) -> None:
    for number in range(5):
        await done(bench, f"t{number}", session_id=f"s{number}")
    bench.clock.advance(1)
    assert [await bench.store.expire(bench.clock.now, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert sum((await bench.store.counts()).values()) == 0


async def test_one_call_forgets_many(bench: Any) -> None:
    for number in range(120):
        await done(bench, f"t{number}", session_id=f"s{number}")
    bench.clock.advance(1)
    assert await bench.store.expire(bench.clock.now, 110) == 110
    assert await bench.store.expire(bench.clock.now, 110) == 10
    assert await bench.store.list_sessions() == []


async def test_a_letter_about_a_message(bench: Any) -> None:
    number = await bench.store.add_dead_letter("not JSON", "{{", "echo")
    (letter,) = await bench.store.list_dead_letters()
    assert (letter.letter_id, letter.reason, letter.message) == (number, "not JSON", "{{")
    assert (letter.service, letter.task_id, letter.created_at) == ("echo", None, bench.clock.now)
    with pytest.raises(NotFoundError, match="cannot be retried"):
        await bench.store.retry_dead_letter(number)
    assert await bench.store.delete_dead_letter(number)
    assert not await bench.store.delete_dead_letter(number)
    with pytest.raises(NotFoundError, match="does not exist"):
        await bench.store.retry_dead_letter(number)


async def lost(bench: Any, **fields: Any) -> int:
    """A task that ran out of retries; returns its letter."""
    await bench.running(max_retries=0, **fields)
    bench.clock.advance(11)
    assert (await bench.repair()).dead_lettered == ("t",)
    (letter,) = await bench.store.list_dead_letters()
    return letter.letter_id


async def test_a_given_up_task_gets_a_new_life(bench: Any, ids: Any) -> None:
    letter = await lost(bench)
    rows = await bench.store.retry_dead_letter(letter)
    assert ids(rows) == ["t/2"]
    record = await bench.record()
    assert (record.state, record.result, record.data) == ("queued", None, {})
    assert (record.crashes, record.finished_at) == (0, None)
    assert await bench.store.list_dead_letters() == []
    run = await bench.start()
    assert run.attempt == 2, "the attempt that was lost stays stale"
    await bench.finish(run.key, "after all")
    assert (await bench.record()).result == "after all"


async def test_a_retried_task_queues_behind_its_session(bench: Any, ids: Any) -> None:
    letter = await lost(bench)
    run = await bench.running("other")
    assert await bench.store.retry_dead_letter(letter) == ()
    assert await bench.dropped() == "not_due"
    assert ids((await bench.finish(run.key)).publish) == ["t/2"]


async def test_a_retried_task_resumes_its_snapshot(bench: Any) -> None:
    run = await bench.running(max_retries=0)
    await bench.park(run.key, snapshot="snap", next_index=4)
    await bench.store.append_inbound("t", "answer")
    await bench.start()
    bench.clock.advance(11)
    await bench.repair()
    (letter,) = await bench.store.list_dead_letters()
    await bench.store.retry_dead_letter(letter.letter_id)
    again = await bench.start()
    assert (again.snapshot, again.base_index) == ("snap", 4)
    assert [event.event for event in again.inbound] == ["answer"]


async def test_a_letter_whose_task_is_gone(bench: Any) -> None:
    letter = await lost(bench)
    await bench.store.delete_session("s")
    with pytest.raises(NotFoundError, match="is gone"):
        await bench.store.retry_dead_letter(letter)


async def test_letters_expire(bench: Any) -> None:
    await bench.store.add_dead_letter("r", "m")
    bench.clock.advance(100)
    await bench.store.expire(bench.clock.now)
    assert await bench.store.list_dead_letters() == []
