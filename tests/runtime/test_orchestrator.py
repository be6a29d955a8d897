from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.orchestrator import (
    BaseOrchestrator,
    SimpleOrchestrator,
    SimpleOrchestratorConfig,
    is_simple,
)
from llamadeploy.types import TaskDefinition, TaskResult

names = st.text(min_size=1)
tasks = st.builds(TaskDefinition, input=st.text(), task_id=names, service_id=names)
states = st.dictionaries(names.map(lambda name: f"user_{name}"), st.integers() | st.text())
data = st.dictionaries(st.text(), st.integers() | st.text())


@given(tasks, states)
async def test_a_new_task_goes_to_its_service_unchanged(
    task: TaskDefinition, state: dict[str, Any]
) -> None:
    before = copy.deepcopy(state)
    [message], after = await SimpleOrchestrator().get_next_messages(task, state)
    assert (message.type, message.action) == (task.service_id, ActionTypes.NEW_TASK)
    assert TaskDefinition.model_validate(message.data) == task
    assert state == before, "the caller's state is not changed in place"
    assert {**after, **before} == after and task.task_id in after
    assert json.loads(json.dumps(after)) == after


@given(tasks, states, st.text(), data)
async def test_the_first_result_ends_the_task(
    task: TaskDefinition, state: dict[str, Any], text: str, details: dict[str, Any]
) -> None:
    orchestrator = SimpleOrchestrator(final_message_type="out")
    result = TaskResult(task_id=task.task_id, result=text, data=details)
    _, state = await orchestrator.get_next_messages(task, state)
    state = await orchestrator.add_result_to_state(result, state)
    state = json.loads(json.dumps(state))  # as it comes back from a store
    [message], after = await orchestrator.get_next_messages(task, state)
    assert (message.type, message.action) == ("out", ActionTypes.COMPLETED_TASK)
    assert TaskResult.model_validate(message.data) == result and after == state


@given(tasks, tasks, states)
async def test_a_result_of_another_task_ends_nothing(
    task: TaskDefinition, other: TaskDefinition, state: dict[str, Any]
) -> None:
    if task.task_id == other.task_id:
        return
    orchestrator = SimpleOrchestrator()
    result = TaskResult(task_id=other.task_id, result="x")
    state = await orchestrator.add_result_to_state(result, state)
    [message], _ = await orchestrator.get_next_messages(task, state)
    assert message.action is ActionTypes.NEW_TASK


@pytest.mark.parametrize("form", ["object", "dict", "text"])
async def test_results_of_older_states_are_read_in_every_form(form: str) -> None:
    task = TaskDefinition(input="{}", task_id="t", service_id="s")
    result = TaskResult(task_id="t", result="done")
    forms = {"object": result, "dict": result.model_dump(), "text": result.model_dump_json()}
    [message], _ = await SimpleOrchestrator().get_next_messages(task, {"result_t": forms[form]})
    assert message.type == "human" and message.data["result"] == "done"


@pytest.mark.parametrize("stored", [7, "no json", {"result": "no id"}, "[]"])
async def test_what_is_no_result_is_an_error_that_says_where(stored: Any) -> None:
    task = TaskDefinition(input="{}", task_id="t", service_id="s")
    with pytest.raises(ValueError, match="'result_t' is no task result"):
        await SimpleOrchestrator().get_next_messages(task, {"result_t": stored})


@pytest.mark.parametrize("service", [None, ""])
async def test_a_task_without_a_service_is_an_error(service: str | None) -> None:
    task = TaskDefinition(input="{}", task_id="t", service_id=service)
    with pytest.raises(ValueError, match="task t has no service_id"):
        await SimpleOrchestrator().get_next_messages(task, {})


def test_config_reads_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    default = SimpleOrchestrator.from_config(SimpleOrchestratorConfig())
    assert (default.max_retries, default.final_message_type) == (3, "human")
    monkeypatch.setenv("SIMPLE_ORCHESTRATOR_MAX_RETRIES", "5")
    monkeypatch.setenv("SIMPLE_ORCHESTRATOR_FINAL_MESSAGE_TYPE", "out")
    changed = SimpleOrchestrator.from_config(SimpleOrchestratorConfig())
    assert (changed.max_retries, changed.final_message_type) == (5, "out")


class Chain(BaseOrchestrator):
    """A user's orchestrator: the result of ``first`` is the input of ``second``."""

    async def get_next_messages(
        self, task_def: TaskDefinition, state: dict[str, Any]
    ) -> tuple[list[QueueMessage], dict[str, Any]]:
        results = state.get(task_def.task_id, [])
        if len(results) == 2:
            done = {"task_id": task_def.task_id, "result": results[-1]}
            action, kind, data = ActionTypes.COMPLETED_TASK, "human", done
        else:
            kind = ["first", "second"][len(results)]
            text = json.dumps({"x": results[-1]}) if results else task_def.input
            data = task_def.model_copy(update={"service_id": kind, "input": text}).model_dump()
            action = ActionTypes.NEW_TASK
        return [QueueMessage(type=kind, action=action, data=data)], state

    async def add_result_to_state(
        self, result: TaskResult, state: dict[str, Any]
    ) -> dict[str, Any]:
        return {**state, result.task_id: [*state.get(result.task_id, []), result.result]}


async def test_a_subclass_can_chain_services() -> None:
    task, state, chain = TaskDefinition(input="{}", task_id="t"), {}, Chain()
    visited = []
    for text in ("a", "b"):
        [message], state = await chain.get_next_messages(task, state)
        visited.append((message.type, message.data["input"]))
        state = await chain.add_result_to_state(TaskResult(task_id="t", result=text), state)
    [message], _ = await chain.get_next_messages(task, state)
    assert visited == [("first", "{}"), ("second", '{"x": "a"}')]
    assert message.action is ActionTypes.COMPLETED_TASK and message.data["result"] == "b"


def test_only_the_exact_simple_orchestrator_skips_routing() -> None:
    class Subclass(SimpleOrchestrator):
        pass

    assert is_simple(None) and is_simple(SimpleOrchestrator())
    assert not is_simple(Subclass()) and not is_simple(Chain())
