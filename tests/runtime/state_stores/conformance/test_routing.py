"""A custom orchestrator decides what follows a result."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.state_stores.records import RouteCommit, RoutingStage
from llamadeploy.types import TaskState


async def delivered(bench: Any, **fields: Any) -> RoutingStage:
    """A task whose first service has delivered."""
    run = await bench.running(orchestrated=True, **fields)
    await bench.finish(run.key, "from echo", data={"k": 1}, context="echo's")
    stage = await bench.store.routing_stage("t")
    assert stage is not None
    return stage


async def test_a_result_asks_the_orchestrator(bench: Any, ids: Any, events: Any) -> None:
    run = await bench.running(orchestrated=True)
    await bench.create("next")
    await bench.store.merge_session_state("s", {"seen": 1})
    finished = await bench.finish(run.key, "from echo", data={"k": 1}, events=events(0, 1))
    kinds = {row.message_id: (row.kind, row.input) for row in finished.publish}
    assert kinds["t/2"] == ("route", None)
    assert kinds["next/1"][0] == "run", "the service is free for the session's next task"
    record = await bench.record()
    assert (record.state, record.result, record.data) == ("running", None, {})
    assert (await bench.store.counts())["running"] == 1
    stage = await bench.store.routing_stage("t")
    assert stage == RoutingStage(
        task_id="t",
        session_id="s",
        service="echo",
        input='{"message": "hello"}',
        stage=1,
        result="from echo",
        data={"k": 1},
        state={"seen": 1},
        version=stage.version,
    )
    assert await bench.dropped() == "not_due"
    assert not (await bench.store.complete("t", "x", {})).accepted


async def test_the_next_service(bench: Any, ids: Any, events: Any) -> None:
    stage = await delivered(bench)
    commit = RouteCommit(
        task_id="t",
        stage=1,
        version=stage.version,
        state={"by": "orchestrator"},
        next_service="second",
        next_input='{"from": "first"}',
    )
    routed = await bench.store.commit_route(commit)
    assert routed.accepted
    (row,) = routed.publish
    assert (row.message_id, row.kind, row.service) == ("t/3", "run", "second")
    assert row.input == '{"from": "first"}'
    assert await bench.store.get_input("t") == '{"from": "first"}'
    assert (await bench.store.list_tasks())[0].input == '{"message": "hello"}'
    assert (await bench.store.get_session("s")).state == {"by": "orchestrator"}
    assert await bench.store.routing_stage("t") is None
    assert not (await bench.store.commit_route(commit)).accepted, "decided already"
    run = await bench.start()
    assert (run.service, run.input, run.context) == ("second", '{"from": "first"}', None)
    await bench.finish(run.key, "from second")
    second = await bench.store.routing_stage("t")
    assert (second.stage, second.service, second.result) == (2, "second", "from second")
    assert second.input == '{"message": "hello"}', "the orchestrator sees the task as it came"
    final = await bench.store.commit_route(
        RouteCommit(task_id="t", stage=2, version=second.version, state={}, final_result="end")
    )
    assert final.accepted
    record = await bench.record()
    assert (record.state, record.result) == ("succeeded", "end")
    assert (await bench.store.counts())["outbox"] == 0


async def test_the_stream_goes_on_over_the_stages(bench: Any, events: Any) -> None:
    run = await bench.running(orchestrated=True)
    await bench.finish(run.key, events=events(0, 4))
    stage = await bench.store.routing_stage("t")
    await bench.store.commit_route(
        RouteCommit(task_id="t", stage=1, version=stage.version, state={}, next_service="second")
    )
    second = await bench.start()
    assert second.base_index == 5
    await bench.finish(second.key, events=events(5, 6))
    stage = await bench.store.routing_stage("t")
    await bench.store.commit_route(
        RouteCommit(task_id="t", stage=2, version=stage.version, state={}, final_result="end")
    )
    page = await bench.store.read_log("t", 0, 100)
    assert (page.bases, page.event_count) == ({1: 0, 2: 5}, 7)


async def test_a_state_that_moved_must_be_read_again(bench: Any) -> None:
    stage = await delivered(bench)
    await bench.store.merge_session_state("s", {"by": "the user"})
    commit = RouteCommit(
        task_id="t", stage=1, version=stage.version, state={"lost": True}, final_result="x"
    )
    assert not (await bench.store.commit_route(commit)).accepted
    assert (await bench.store.get_session("s")).state == {"by": "the user"}
    assert await bench.state() == "running"
    assert not (
        await bench.store.commit_route(
            RouteCommit(task_id="t", stage=9, version=stage.version + 1, state={})
        )
    ).accepted
    assert not (
        await bench.store.commit_route(RouteCommit(task_id="x", stage=1, version=1, state={}))
    ).accepted


async def test_a_final_failure(bench: Any) -> None:
    stage = await delivered(bench)
    await bench.store.commit_route(
        RouteCommit(
            task_id="t",
            stage=1,
            version=stage.version,
            state={},
            final_state=TaskState.FAILED,
            final_result="no",
            final_data={"state": "failed"},
        )
    )
    record = await bench.record()
    assert (record.state, record.result, record.data) == ("failed", "no", {"state": "failed"})


async def test_the_route_is_in_the_outbox_until_it_was_published(bench: Any, ids: Any) -> None:
    await delivered(bench)
    bench.clock.advance(6)
    (row,) = (await bench.repair()).publish
    assert (row.message_id, row.kind) == ("t/2", "route")


async def test_a_route_that_the_queue_forgot_is_published_again(bench: Any) -> None:
    await delivered(bench)
    bench.clock.advance(6)
    (row,) = (await bench.repair(resend=None)).publish
    await bench.store.outbox_done([row.row_id])
    bench.clock.advance(1)
    assert (await bench.repair(resend=None)).publish == ()
    (again,) = (await bench.repair(resend=5)).publish
    assert (again.message_id, again.kind, again.input) == ("t/2", "route", None)
    assert (await bench.repair(resend=5)).publish == ()


async def test_the_next_service_has_its_own_order(bench: Any, ids: Any) -> None:
    run = await bench.running("busy", service="second")
    stage = await delivered(bench)
    routed = await bench.store.commit_route(
        RouteCommit(task_id="t", stage=1, version=stage.version, state={}, next_service="second")
    )
    assert routed.accepted
    assert routed.publish == ()
    assert ids((await bench.finish(run.key)).publish) == ["t/3"]


@pytest.mark.parametrize("detached", [True, False])
async def test_what_was_sent_between_two_services_reaches_the_second(
    bench: Any, detached: bool
) -> None:
    run = await bench.running(orchestrated=True, detached_context=detached)
    await bench.store.append_inbound("t", "for the first")
    await bench.finish(run.key)
    await bench.store.append_inbound("t", "between")
    stage = await bench.store.routing_stage("t")
    await bench.store.commit_route(
        RouteCommit(task_id="t", stage=1, version=stage.version, state={}, next_service="second")
    )
    assert [event.event for event in (await bench.start()).inbound] == ["between"]


async def test_cancel_while_routing(bench: Any) -> None:
    stage = await delivered(bench)
    assert (await bench.store.cancel("t", "why")).changed
    assert await bench.store.routing_stage("t") is None
    assert not (
        await bench.store.commit_route(
            RouteCommit(task_id="t", stage=1, version=stage.version, state={})
        )
    ).accepted
