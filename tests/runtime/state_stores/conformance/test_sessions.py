"""Sessions: order, policies, contexts, state, deletion."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llamadeploy.exceptions import ConflictError, NotFoundError, SessionBusyError
from llamadeploy.types import SessionPolicy


async def test_one_at_a_time_in_the_order_of_creation(bench: Any, ids: Any) -> None:
    assert ids((await bench.create("a")).publish) == ["a/1"]
    assert (await bench.create("b")).publish == ()
    assert (await bench.create("c")).publish == ()
    assert await bench.dropped("b") == "not_due"
    for task, following in (("a", ["b/1"]), ("b", ["c/1"]), ("c", [])):
        run = await bench.start(task)
        assert ids((await bench.finish(run.key)).publish) == following


async def test_services_of_a_session_do_not_wait_for_each_other(bench: Any) -> None:
    await bench.create("a")
    assert (await bench.create("b", service="other")).publish != ()


@pytest.mark.parametrize("end", ["failed", "cancelled", "lost", "queue_timeout"])
@pytest.mark.rule(4)
async def test_whatever_ends_the_head_the_next_one_follows(bench: Any, end: str, ids: Any) -> None:
    await bench.create("a", max_retries=0, queue_timeout=5.0)
    await bench.create("b")
    if end == "queue_timeout":
        bench.clock.advance(6)
        rows = (await bench.repair()).publish
        rows = tuple(row for row in rows if row.task_id == "b")
    elif end == "cancelled":
        rows = (await bench.store.cancel("a", "why")).publish
    else:
        run = await bench.start("a")
        if end == "failed":
            rows = (await bench.finish(run.key, failed=True)).publish
        else:
            bench.clock.advance(11)
            rows = (await bench.repair()).publish
    assert ids(rows) == ["b/1"]
    assert await bench.state("b") == "queued"
    await bench.start("b")


async def test_cancelling_one_in_the_middle_keeps_the_order(bench: Any, ids: Any) -> None:
    run = await bench.running("a")
    await bench.create("b")
    await bench.create("c")
    assert (await bench.store.cancel("b", "why")).publish == ()
    assert ids((await bench.finish(run.key)).publish) == ["c/1"]


async def test_the_context_goes_from_task_to_task(bench: Any) -> None:
    run = await bench.running("a")
    await bench.finish(run.key, context="one")
    run = await bench.running("b")
    assert run.context == "one"
    await bench.finish(run.key, failed=True, context="of a failed run")
    run = await bench.running("c")
    assert run.context == "one"
    await bench.finish(run.key)
    assert (await bench.running("d")).context == "one"


async def test_contexts_are_per_service(bench: Any) -> None:
    run = await bench.running("a")
    await bench.finish(run.key, context="echo's")
    run = await bench.running("b", service="other")
    assert run.context is None
    await bench.finish(run.key, context="other's")
    assert (await bench.running("c")).context == "echo's"


@pytest.mark.rule(4)
async def test_parallel_takes_a_copy_that_is_never_written_back(bench: Any) -> None:
    run = await bench.running("a")
    await bench.finish(run.key, context="original")
    parallel = {"policy": SessionPolicy.PARALLEL}
    first, second = await bench.running("b", **parallel), await bench.running("c", **parallel)
    assert [first.context, second.context] == ["original", "original"]
    assert not first.keep_context
    await bench.finish(first.key, context="changed")
    await bench.finish(second.key, context="changed")
    assert (await bench.running("d")).context == "original"


async def test_a_call_into_an_ancestor_does_not_wait_for_it(bench: Any) -> None:
    """A calls B calls A in one session: no deadlock."""
    await bench.running("a", service="A")
    await bench.running("b", service="B", parent="a", ancestors=("a",))
    inner = await bench.running(
        "inner", service="A", parent="b", ancestors=("a", "b"), detached_context=True
    )
    assert inner.ancestors == ("a", "b")
    assert (await bench.finish(inner.key, context="x")).accepted


async def test_reject(bench: Any) -> None:
    reject = {"policy": SessionPolicy.REJECT}
    run = await bench.running("a", **reject)
    with pytest.raises(SessionBusyError, match="session 's'"):
        await bench.create("b", **reject)
    assert await bench.store.get_task("b") is None
    await bench.create("c", service="other", **reject)
    await bench.finish(run.key)
    await bench.create("b", **reject)


async def test_sessions_are_read(bench: Any) -> None:
    await bench.store.create_session("s2")
    await bench.create("a")
    await bench.create("b")
    with pytest.raises(ConflictError, match="session 's'"):
        await bench.store.create_session("s")
    session = await bench.store.get_session("s")
    assert (session.session_id, session.task_ids, session.state) == ("s", ["a", "b"], {})
    assert {s.session_id: s.task_ids for s in await bench.store.list_sessions()} == {
        "s": ["a", "b"],
        "s2": [],
    }
    assert await bench.store.get_session("s3") is None


async def test_state_is_merged_without_losing_anything(bench: Any) -> None:
    await bench.store.create_session("s")
    patches = [{"shared": n, f"k{n}": n} for n in range(50)]
    await asyncio.gather(*(bench.store.merge_session_state("s", patch) for patch in patches))
    state = (await bench.store.get_session("s")).state
    assert {f"k{n}": n for n in range(50)}.items() <= state.items()
    assert len(state) == 51
    with pytest.raises(NotFoundError, match="Session not found"):
        await bench.store.merge_session_state("x", {})


async def test_sessions_without_unfinished_tasks_are_forgotten_together(bench: Any) -> None:
    ended = await bench.running("a", session_id="s1")
    await bench.finish(ended.key, context="kept until now")
    await bench.running("b", session_id="s2")
    await bench.store.create_session("s3")
    assert await bench.store.forget_sessions(["s1", "s2", "s3", "s4"]) == ["s2"]
    assert [s.session_id for s in await bench.store.list_sessions()] == ["s2"]
    assert await bench.store.get_task("a") is None
    with pytest.raises(ConflictError, match="was forgotten"):
        await bench.create("a", session_id="s1")
    assert await bench.state("b") == "running"
    assert await bench.store.forget_sessions(["s1"]) == [], "idempotent"
    assert (await bench.running("c", session_id="s1")).context is None


async def test_who_follows_a_forgotten_task_hears_of_it(bench: Any) -> None:
    run = await bench.running("a")
    await bench.finish(run.key)
    with bench.store.follow("a") as follower:
        await bench.store.forget_sessions(["s"])
        assert await follower.changed(5.0)


async def test_delete_forgets_everything(bench: Any, events: Any) -> None:
    run = await bench.running("a")
    await bench.store.append_events(run.key, events(0, 3))
    await bench.finish(run.key, context="c")
    running = await bench.running("b")
    await bench.create("c")
    deleted = await bench.store.delete_session("s")
    assert deleted.changed
    assert deleted.nudge == (("b", "w"),)
    assert deleted.publish == ()
    assert await bench.store.get_session("s") is None
    assert await bench.store.list_tasks() == []
    assert not (await bench.finish(running.key)).accepted
    assert [await bench.dropped(task) for task in "abc"] == ["terminal"] * 3
    assert await bench.store.delete_session("s") is None, "idempotent"
    assert sum((await bench.store.counts()).values()) == 0
    with pytest.raises(ConflictError, match="was forgotten"):
        await bench.create("a", session_id="s2")
    fresh = await bench.running("d")
    assert fresh.context is None


async def test_delete_of_an_idle_session(bench: Any) -> None:
    run = await bench.running()
    await bench.finish(run.key)
    deleted = await bench.store.delete_session("s")
    assert not deleted.changed


async def test_delete_ends_calls_into_other_sessions(bench: Any, ids: Any) -> None:
    await bench.running("parent")
    await bench.running("child", session_id="s2", parent="parent", ancestors=("parent",))
    await bench.create("next", session_id="s2")
    deleted = await bench.store.delete_session("s")
    assert ids(deleted.publish) == ["next/1"]
    assert await bench.state("child") == "cancelled"
