"""Deliveries: run, written, acknowledged; poison; failures; sessions."""

from __future__ import annotations

import asyncio

import pytest
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from llamadeploy.messages import ActionTypes, QueueMessage, topic_name
from llamadeploy.state_stores.records import NewTask
from llamadeploy.types import TaskState


class Said(Event):
    text: str


class Echo(Workflow):
    @step
    async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for number in range(ev.get("events", 0)):
            ctx.write_event_to_stream(Said(text=str(number)))
        if ev.get("fail", False):
            raise ValueError("it was asked to fail")
        return StopEvent(result=f"echo {ev.get('text', '')}")


class Counter(Workflow):
    @step
    async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
        count = await ctx.store.get("count", default=0) + 1
        await ctx.store.set("count", count)
        if ev.get("fail", False):
            raise ValueError("no")
        return StopEvent(result=count)


async def test_a_task_runs_and_its_message_is_acknowledged(plane, eventually):
    await plane.register()
    async with plane.worker(Echo()) as worker:
        task_id = await plane.create(text="hello")
        result = await plane.result(task_id)
        assert result.result == "echo hello"
        await eventually(lambda: worker.counts["succeeded"] == 1)
        topic = topic_name("tests.worker", "echo")
        await eventually(lambda: plane.broker.depth(topic) == 0)
        await eventually(lambda: worker.in_flight == 0)


@pytest.mark.defect(7)
async def test_a_task_sent_before_its_worker_starts_ends(plane):
    await plane.register()
    task_id = await plane.create(text="early")
    async with plane.worker(Echo()):
        assert (await plane.result(task_id)).result == "echo early"


async def test_the_stream_is_complete_and_in_order_when_the_result_is_there(plane):
    await plane.register()
    async with plane.worker(Echo()):
        for events in (0, 1, 999, 1000, 1001, 5000):
            task_id = await plane.create(events=events)
            await plane.result(task_id)
            texts = [e.get("text") for e in await plane.events(task_id)]
            assert texts[:events] == [str(n) for n in range(events)]
            record = await plane.store.get_task(task_id)
            assert record.event_count == len(texts)


async def test_many_tasks_at_once_over_http(plane, eventually):
    await plane.register()
    async with plane.worker(Echo(), over_http=True) as worker:
        tasks = [await plane.create(text=str(n)) for n in range(100)]
        results = await asyncio.gather(*[plane.result(task) for task in tasks])
        assert [r.result for r in results] == [f"echo {n}" for n in range(100)]
        await eventually(lambda: worker.counts["succeeded"] == 100)


async def test_an_exception_is_the_task_s_result(plane):
    await plane.register()
    async with plane.worker(Echo()):
        result = await plane.result(await plane.create(fail=True))
        assert "it was asked to fail" in result.result
        assert result.data["state"] == "failed"
        assert result.data["error"]["type"] == "ValueError"
        assert "run_it" in result.data["error"]["traceback"]


@pytest.mark.defect(13)
@pytest.mark.rule(4)
async def test_a_failed_run_leaves_its_session_as_it_was(plane):
    await plane.register()
    session = await plane.control_plane.create_session()
    async with plane.worker(Counter()):
        seen = []
        for fail in (False, True, False):
            result = await plane.result(await plane.create_in(session, fail=fail))
            seen.append(result.result)
        assert seen[0] == "1"
        assert seen[2] == "2"


@pytest.mark.defect(14)
async def test_two_services_of_a_session_have_contexts_of_their_own(plane):
    await plane.register("one")
    await plane.register("two")
    session = await plane.control_plane.create_session()
    async with plane.worker(Counter(), service="one"), plane.worker(Counter(), service="two"):
        for service, expected in (("one", "1"), ("two", "1"), ("one", "2"), ("two", "2")):
            result = await plane.result(await plane.create_in(session, service))
            assert result.result == expected


async def test_poison_goes_to_the_dead_letters_and_the_consumer_survives(plane, eventually):
    await plane.register()
    topic = topic_name("tests.worker", "echo")
    poison = [
        QueueMessage(action=ActionTypes.NEW_TASK, data={}),
        QueueMessage(action=ActionTypes.NEW_TASK, data={"task_id": {"not": "text"}}),
        QueueMessage(action=ActionTypes.COMPLETED_TASK, data={"task_id": "x"}),
        QueueMessage(),
    ]
    async with plane.worker(Echo()) as worker:
        for message in poison:
            await plane.queue.publish(topic, message)
        task_id = await plane.create(text="good")
        assert (await plane.result(task_id)).result == "echo good"
        await eventually(lambda: worker.counts["dead_letter"] == len(poison))
        await eventually(lambda: plane.broker.depth(topic) == 0)
        letters = await plane.control_plane.dead_letters()
        assert len(letters) == len(poison)
        assert all(letter.service == "echo" and letter.message for letter in letters)
        assert any("task_id" in letter.reason for letter in letters)


@pytest.mark.defect(11)
async def test_a_hundred_malformed_inputs_leak_no_slot(plane, eventually):
    await plane.register()
    topic = topic_name("tests.worker", "echo")
    async with plane.worker(Echo(), max_concurrent_tasks=2) as worker:
        bad = []
        for number in range(100):
            # Past the control plane's own checks, straight into the store and queue.
            created = await plane.store.create_task(
                NewTask(
                    task_id=f"bad-{number}",
                    session_id=f"s-{number}",
                    service="echo",
                    input="[1, 2" if number % 2 else "[]",
                    new_session=True,
                )
            )
            await plane.queue.publish(
                topic, QueueMessage(action=ActionTypes.NEW_TASK, data={"task_id": created.task_id})
            )
            bad.append(created.task_id)
        results = await asyncio.gather(*[plane.result(task) for task in bad])
        assert all(result.data["state"] == "failed" for result in results)
        good = await plane.create(text="good")
        assert (await plane.result(good)).result == "echo good"
        await eventually(lambda: worker.in_flight == 0)


@pytest.mark.rule(17)
async def test_a_message_of_an_unknown_or_finished_task_is_dropped(plane, eventually):
    await plane.register()
    topic = topic_name("tests.worker", "echo")
    async with plane.worker(Echo()) as worker:
        task_id = await plane.create(text="once")
        await plane.result(task_id)
        for known in (task_id, "nobody-knows-me"):
            await plane.queue.publish(
                topic, QueueMessage(action=ActionTypes.NEW_TASK, data={"task_id": known})
            )
        await eventually(lambda: worker.counts["dropped_terminal"] == 1)
        await eventually(lambda: worker.counts["dropped_unknown"] == 1)
        await eventually(lambda: plane.broker.depth(topic) == 0)
        record = await plane.store.get_task(task_id)
        assert record.state is TaskState.SUCCEEDED
        assert record.attempt == 1


class Unsavable(Workflow):
    @step
    async def run_it(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("socket", object())
        return StopEvent(result="done")


@pytest.mark.defect(12)
async def test_a_context_that_cannot_be_saved_is_a_terminal_error(plane):
    await plane.register()
    async with plane.worker(Unsavable()):
        result = await plane.result(await plane.create())
        assert result.data["state"] == "failed"
