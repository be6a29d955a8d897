"""Drain and parking: what becomes of running, prefetched and waiting tasks."""

from __future__ import annotations

import asyncio

import pytest
from workflows import Context, Workflow, step
from workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

from llamadeploy.messages import topic_name
from llamadeploy.types import EventDefinition, TaskState

ANSWER = (
    '{"__is_pydantic": true, "value": {"response": "42"}, '
    '"qualified_name": "workflows.events.HumanResponseEvent"}'
)


class Slow(Workflow):
    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=None)
        self.seconds = seconds
        self.started = 0

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        self.started += 1
        await asyncio.sleep(self.seconds)
        return StopEvent(result="slept")


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ev.get("plain", False):
            return StopEvent(result="plain")
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="?"), timeout=None
        )
        return StopEvent(result=f"answer {answer.response}")


async def test_what_runs_ends_within_the_grace(plane, eventually):
    await plane.register()
    workflow = Slow(0.5)
    async with plane.worker(workflow, drain_grace=10.0) as worker:
        task_id = await plane.create()
        await eventually(lambda: workflow.started == 1)
    assert worker.counts["succeeded"] == 1
    assert (await plane.result(task_id)).result == "slept"


async def test_what_does_not_end_is_handed_back_without_a_retry(plane, eventually):
    await plane.register(max_retries=0)
    workflow = Slow(3600.0)
    async with plane.worker(workflow, drain_grace=0.0, max_concurrent_tasks=2) as worker:
        running = [await plane.create() for _ in range(2)]
        await eventually(lambda: workflow.started == 2)
        prefetched = [await plane.create() for _ in range(3)]
    assert worker.counts["released"] == 2
    for task_id in running:
        record = await plane.store.get_task(task_id)
        assert (record.state, record.crashes) == (TaskState.QUEUED, 0)
    async with plane.worker(Slow(0.0)):
        for task_id in running + prefetched:
            assert (await plane.result(task_id)).result == "slept"


class Blocked(Workflow):
    started = False

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        import time

        Blocked.started = True
        time.sleep(5.0)
        return StopEvent(result="late")


async def test_a_run_that_blocks_its_loop_is_handed_back_all_the_same(plane, eventually):
    await plane.register()
    async with plane.worker(Blocked(), drain_grace=0.0) as worker:
        task_id = await plane.create()
        await eventually(lambda: Blocked.started)
    assert worker.counts["released"] == 1
    record = await plane.store.get_task(task_id)
    assert (record.state, record.crashes) == (TaskState.QUEUED, 0)


@pytest.mark.rule(7)
async def test_waiting_tasks_free_their_slots(plane, eventually):
    await plane.register()
    async with plane.worker(Asking(), max_concurrent_tasks=2) as worker:
        waiting = [await plane.create() for _ in range(10)]

        async def parked() -> bool:
            records = [await plane.store.get_task(task) for task in waiting]
            return all(record.state is TaskState.WAITING for record in records)

        await eventually(parked)
        await eventually(lambda: worker.in_flight == 0)
        topic = topic_name("tests.worker", "echo")
        await eventually(lambda: plane.broker.depth(topic) == 0)
        assert (await plane.result(await plane.create(plain=True))).result == "plain"
    # Another replica answers all of them.
    async with plane.worker(Asking(), max_concurrent_tasks=2):
        for task_id in waiting:
            session = (await plane.store.get_task(task_id)).session_id
            await plane.control_plane.send_event(
                session, task_id, EventDefinition(service_id="echo", event_obj_str=ANSWER)
            )
        for task_id in waiting:
            assert (await plane.result(task_id)).result == "answer 42"
