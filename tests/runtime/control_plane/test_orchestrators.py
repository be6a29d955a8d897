"""Custom orchestrators: a user's rules decide where a task goes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.orchestrator import BaseOrchestrator, SimpleOrchestrator, get_result_key
from llamadeploy.types import ServiceDefinition, TaskDefinition, TaskResult

State = dict[str, Any]


class Chain(BaseOrchestrator):
    """The first service's result is the second one's input."""

    services = ("first", "second")

    async def get_next_messages(
        self, task_def: TaskDefinition, state: State
    ) -> tuple[list[QueueMessage], State]:
        done = state.get(f"done_{task_def.task_id}", [])
        if len(done) == len(self.services):
            return [], state
        text = json.dumps({"message": done[-1]}) if done else task_def.input
        data = task_def.model_copy(update={"input": text}).model_dump()
        message = QueueMessage(
            type=self.services[len(done)], action=ActionTypes.NEW_TASK, data=data
        )
        return [message], {"asked": state.get("asked", 0) + 1}

    async def add_result_to_state(self, result: TaskResult, state: State) -> State:
        key = f"done_{result.task_id}"
        state[key] = [*state.get(key, []), result.result]
        if len(state[key]) == len(self.services):
            state[get_result_key(result.task_id)] = result
        return state


class Twice(SimpleOrchestrator):
    """A subclass of the simple one that sends the task on once, result set or not."""

    async def get_next_messages(
        self, task_def: TaskDefinition, state: State
    ) -> tuple[list[QueueMessage], State]:
        messages, state = await super().get_next_messages(task_def, state)
        if messages[0].action == ActionTypes.COMPLETED_TASK and state.get("retries", 0) == 1:
            data = task_def.model_copy(update={"input": '{"message": "again"}'}).model_dump()
            return [QueueMessage(type="second", action=ActionTypes.NEW_TASK, data=data)], state
        return messages, state

    async def add_result_to_state(self, result: TaskResult, state: State) -> State:
        state = await super().add_result_to_state(result, state)
        return {**state, "retries": state.get("retries", 0) + 1}


class Broken(Chain):
    """Does what a test says after the first result."""

    def __init__(self, then: Any) -> None:
        self._then = then

    async def get_next_messages(
        self, task_def: TaskDefinition, state: State
    ) -> tuple[list[QueueMessage], State]:
        if not state.get(f"done_{task_def.task_id}"):
            return await super().get_next_messages(task_def, state)
        return self._then(task_def, state)


async def _service(job: Any) -> str:
    await job.emit({"service": job.execution.service})
    return f"{job.execution.service}({job.arguments['message']})"


async def _run(plane: Any, **extra: Any) -> tuple[str, str, Any]:
    for name in ("first", "second"):
        plane.control_plane.declare_service(ServiceDefinition(service_name=name))
        plane.workers.serve(name, _service)
    session = await plane.session()
    body = {"input": '{"message": "x"}', "service_id": "first", **extra}
    task = await plane.post(f"/sessions/{session}/tasks", body)
    return session, task, await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")


async def test_two_services_are_chained(open_plane: Any) -> None:
    async with open_plane(orchestrator=Chain()) as plane:
        session, task, result = await _run(plane)
        assert result["result"] == "second(first(x))"
        stream = await plane.lines(f"/sessions/{session}/tasks/{task}/result_stream")
        assert stream == [{"service": "first"}, {"service": "second"}]
        state = await plane.get(f"/sessions/{session}/state")
        assert state["asked"] == 2
        assert state[get_result_key(task)]["result"] == "second(first(x))"


async def test_the_orchestrator_may_choose_the_service_and_take_any_input(
    open_plane: Any,
) -> None:
    class FromText(Chain):
        async def get_next_messages(
            self, task_def: TaskDefinition, state: State
        ) -> tuple[list[QueueMessage], State]:
            text = json.dumps({"message": task_def.input})
            task = task_def.model_copy(update={"input": text})
            return await super().get_next_messages(task, state)

    async with open_plane(orchestrator=FromText(), default_service=None) as plane:
        _, _, result = await _run(plane, input="plain text", service_id=None)
        assert result["result"] == "second(first(plain text))"


async def test_a_subclass_of_the_simple_one_may_send_a_task_on(open_plane: Any) -> None:
    async with open_plane(orchestrator=Twice()) as plane:
        _, _, result = await _run(plane)
        assert result["result"] == "second(again)"


async def test_the_same_task_again_is_not_decided_again(open_plane: Any) -> None:
    async with open_plane(orchestrator=Chain()) as plane:
        session, task, _ = await _run(plane, task_id="mine")
        body = {"input": '{"message": "x"}', "service_id": "first", "task_id": "mine"}
        assert await plane.post(f"/sessions/{session}/tasks", body) == task
        assert (await plane.get(f"/sessions/{session}/state"))["asked"] == 2


async def test_two_services_at_once_end_the_task_with_a_clear_error(open_plane: Any) -> None:
    def both(task: TaskDefinition, state: State) -> tuple[list[QueueMessage], State]:
        return [
            QueueMessage(type=name, action=ActionTypes.NEW_TASK, data=task.model_dump())
            for name in ("first", "second")
        ], state

    async with open_plane(orchestrator=Broken(both)) as plane:
        _, _, result = await _run(plane)
        assert "first, second" in result["result"]
        assert result["data"]["state"] == "failed"


async def test_neither_message_nor_result_ends_the_task_with_a_clear_error(
    open_plane: Any,
) -> None:
    async with open_plane(orchestrator=Broken(lambda task, state: ([], state))) as plane:
        _, task, result = await _run(plane)
        assert get_result_key(task) in result["result"]
        assert result["data"]["error"]["type"] == "RoutingError"


async def test_an_orchestrator_that_raises_ends_the_task_with_its_traceback(
    open_plane: Any,
) -> None:
    def explode(task: TaskDefinition, state: State) -> Any:
        raise KeyError("boom")

    async with open_plane(orchestrator=Broken(explode)) as plane:
        _, _, result = await _run(plane)
        assert "KeyError: 'boom'" in result["result"]
        assert "explode" in result["data"]["error"]["traceback"]


async def test_a_state_that_is_not_json_ends_the_task_with_a_clear_error(
    open_plane: Any,
) -> None:
    def odd(task: TaskDefinition, state: State) -> Any:
        return [], {get_result_key(task.task_id): {"task_id": "t", "result": "r"}, "x": object()}

    async with open_plane(orchestrator=Broken(odd)) as plane:
        _, _, result = await _run(plane)
        assert "JSON" in result["result"]


async def test_an_orchestrator_that_refuses_a_new_task_is_400(open_plane: Any) -> None:
    class Refusing(Chain):
        async def get_next_messages(
            self, task_def: TaskDefinition, state: State
        ) -> tuple[list[QueueMessage], State]:
            raise ValueError("not today")

    async with open_plane(orchestrator=Refusing()) as plane:
        session = await plane.session()
        body = {"input": "{}", "service_id": "first"}
        reply = await plane.post(f"/sessions/{session}/tasks", body, 400)
        assert "not today" in reply["detail"]
        assert await plane.get(f"/sessions/{session}/tasks") == []


@pytest.mark.defect(1)
async def test_increments_of_concurrent_tasks_serialise(open_plane: Any) -> None:
    """Each result's change of the session's state counts, however many come at once."""

    class Counting(SimpleOrchestrator):
        async def add_result_to_state(self, result: TaskResult, state: State) -> State:
            state = await super().add_result_to_state(result, state)
            return {**state, "count": state.get("count", 0) + 1}

    async with open_plane(orchestrator=Counting()) as plane:
        names = [f"s{n}" for n in range(8)]
        for name in names:
            plane.workers.serve(name, _service)
        session = await plane.session()
        tasks = [await plane.task(session, name, message="x") for name in names for _ in range(5)]
        for task in tasks:
            await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=20")
        assert (await plane.get(f"/sessions/{session}/state"))["count"] == 40


class Stuck(Chain):
    """Never decides."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def add_result_to_state(self, result: TaskResult, state: State) -> State:
        self.asked.set()
        await asyncio.Event().wait()
        return state


async def test_a_decision_that_was_interrupted_is_made_after_a_restart(
    open_plane: Any, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/state.db"
    stuck = Stuck()
    async with open_plane(uri, orchestrator=stuck) as plane:
        plane.workers.serve("first", _service)
        task = await plane.task(await plane.session(), "first", message="x")
        await asyncio.wait_for(stuck.asked.wait(), 10)
    async with open_plane(uri, orchestrator=Chain()) as plane:
        plane.workers.serve("second", _service)
        # The row's lease is 5 s.
        assert (await plane.control_plane.wait_result(task, 15)).result == "second(first(x))"


async def test_without_the_orchestrator_the_first_result_is_the_result(open_plane: Any) -> None:
    stuck = Stuck()
    async with open_plane(orchestrator=stuck) as plane:
        plane.workers.serve("first", _service)
        task = await plane.task(await plane.session(), "first", message="x")
        await asyncio.wait_for(stuck.asked.wait(), 10)
        mine = plane.control_plane
        other = ControlPlane(mine.store, mine.queue, name="o", namespace=mine.namespace)
        route = QueueMessage(action=ActionTypes.ROUTE_TASK, data={"task_id": task})
        await other.process_message(route)
        assert (await mine.wait_result(task, 10)).result == "first(x)"


async def test_a_slow_decision_holds_up_no_other(open_plane: Any) -> None:
    class SlowOnce(Chain):
        asked = 0

        async def add_result_to_state(self, result: TaskResult, state: State) -> State:
            SlowOnce.asked += 1
            if SlowOnce.asked == 1:
                await asyncio.Event().wait()
            return await super().add_result_to_state(result, state)

    async with open_plane(orchestrator=SlowOnce()) as plane:
        for name in ("first", "second"):
            plane.workers.serve(name, _service)
        slow = await plane.task(await plane.session(), "first", message="slow")
        quick = await plane.task(await plane.session(), "first", message="quick")
        result = await plane.control_plane.wait_result(quick, 3)
        result = result or await plane.control_plane.wait_result(slow, 3)
        assert result.result.startswith("second(first(")
