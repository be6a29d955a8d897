"""Tasks by filter, a service's load, and why an attempt stays where it is."""

from __future__ import annotations

from typing import Any

from llamadeploy.state_stores.records import ServiceLoad, TaskQuery
from llamadeploy.types import TaskState


async def found(bench: Any, **query: Any) -> list[str]:
    return [record.task_id for record in await bench.store.find_tasks(TaskQuery(**query))]


async def test_tasks_are_found_by_session_service_and_state_newest_first(bench: Any) -> None:
    done = await bench.running("done")
    await bench.finish(done.key)
    await bench.running("busy", session_id="s2")
    await bench.create("new", session_id="s2", service="other")
    assert await found(bench) == ["new", "busy", "done"]
    assert await found(bench, session_id="s2") == ["new", "busy"]
    assert await found(bench, service="other") == ["new"]
    assert await found(bench, states=(TaskState.SUCCEEDED, TaskState.RUNNING)) == ["busy", "done"]
    assert await found(bench, session_id="s2", states=(TaskState.QUEUED,)) == ["new"]
    assert await found(bench, service="none") == []


async def test_pages_follow_each_other(bench: Any) -> None:
    for number in range(5):
        await bench.create(f"t{number}")
    assert await found(bench, limit=2) == ["t4", "t3"]
    assert await found(bench, limit=2, before="t3") == ["t2", "t1"]
    assert await found(bench, limit=2, before="t1") == ["t0"]
    assert await found(bench, before="unknown") == []


async def test_the_load_tells_queued_blocked_waiting_and_running(bench: Any) -> None:
    assert await bench.store.service_load("echo") == ServiceLoad()
    await bench.running("busy", session_id="a")
    await bench.create("behind", session_id="a")
    parked = await bench.running("parked", session_id="b")
    await bench.park(parked.key)
    since = bench.clock.now
    await bench.create("one", session_id="c")
    bench.clock.advance(3)
    await bench.create("two", session_id="d")
    await bench.create("foreign", session_id="e", service="other")
    ended = await bench.running("ended", session_id="f")
    await bench.finish(ended.key)
    load = await bench.store.service_load("echo")
    assert load == ServiceLoad(
        queued=2, blocked=1, waiting=1, running={"w": 1}, oldest_queued_at=since
    )


async def test_a_resumed_task_waits_since_its_dispatch(bench: Any) -> None:
    run = await bench.running()
    bench.clock.advance(1000)
    await bench.store.release(run.key)
    load = await bench.store.service_load("echo")
    assert (load.queued, load.oldest_queued_at) == (1, bench.clock.now)


async def test_why_an_attempt_is_resident_is_known_until_it_ends(bench: Any) -> None:
    run = await bench.running()
    assert await bench.store.note_resident(run.key, "it holds a lock")
    assert (await bench.store.get_task("t")).resident == "it holds a lock"
    await bench.store.release(run.key)
    assert (await bench.store.get_task("t")).resident is None
    again = await bench.start()
    assert (await bench.store.get_task("t")).resident is None
    assert not await bench.store.note_resident(run.key, "too late")
    assert await bench.store.note_resident(again.key, "again")
    await bench.finish(again.key)
    assert (await bench.store.get_task("t")).resident is None
    assert not await bench.store.note_resident(again.key, "ended")
