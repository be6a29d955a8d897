"""Cancelling, with the calls below."""

from __future__ import annotations

from typing import Any

import pytest


async def test_cancel_in_every_live_state(bench: Any) -> None:
    await bench.create("queued", session_id="1")
    await bench.running("running", session_id="2")
    await bench.park((await bench.running("waiting", session_id="3")).key)
    for task, nudge in (("queued", ()), ("running", (("running", "w"),)), ("waiting", ())):
        outcome = await bench.store.cancel(task, "the user said so")
        assert (outcome.state, outcome.changed, outcome.nudge) == ("cancelled", True, nudge)
        record = await bench.record(task)
        assert (record.state, record.result) == ("cancelled", "the user said so")
        assert record.data["state"] == "cancelled"
        assert record.data["error"]["message"] == "the user said so"
        assert await bench.dropped(task) == "terminal"
    assert (await bench.store.counts())["outbox"] == 0


@pytest.mark.rule(13)
async def test_cancel_and_finish_have_one_winner(bench: Any) -> None:
    run = await bench.running("a", session_id="1")
    await bench.store.cancel("a", "why")
    assert not (await bench.finish(run.key, context="of a cancelled run")).accepted
    assert (await bench.record("a")).state == "cancelled"
    assert (await bench.running("a2", session_id="1")).context is None
    run = await bench.running("b", session_id="2")
    await bench.finish(run.key)
    outcome = await bench.store.cancel("b", "too late")
    assert (outcome.state, outcome.changed) == ("succeeded", False)
    again = await bench.store.cancel("a", "twice")
    assert (again.state, again.changed) == ("cancelled", False)


async def test_cancel_reaches_calls_of_calls(bench: Any, ids: Any) -> None:
    await bench.running("root", service="A")
    await bench.running("child", service="B", parent="root")
    await bench.running("grandchild", service="C", parent="child")
    done = await bench.running("done", service="D", parent="root")
    await bench.finish(done.key)
    await bench.running("stranger", service="E")
    await bench.create("behind", service="C")
    outcome = await bench.store.cancel("root", "why")
    assert sorted(outcome.nudge) == [("child", "w"), ("grandchild", "w"), ("root", "w")]
    assert ids(outcome.publish) == ["behind/1"]
    states = {task: await bench.state(task) for task in ("child", "grandchild", "done")}
    assert states == {"child": "cancelled", "grandchild": "cancelled", "done": "succeeded"}
    assert await bench.state("stranger") == "running"
    assert (await bench.record("child")).parent == "root"


async def test_a_queued_call_is_not_handed_out_while_its_caller_is_cancelled(bench: Any) -> None:
    """Caller and call in the order of one session: neither gets the other's place."""
    await bench.running("root")
    await bench.create("child", parent="root")
    outcome = await bench.store.cancel("root", "why")
    assert outcome.publish == ()
    assert await bench.state("child") == "cancelled"
