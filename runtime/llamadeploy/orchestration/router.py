"""What follows a service's result where a deployment has an orchestrator of its own."""

from __future__ import annotations

import copy
import json
import traceback
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.orchestrator import BaseOrchestrator, get_result_key
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import RouteCommit, RoutingStage
from llamadeploy.types import TaskDefinition, TaskResult, TaskState

ONE_AT_A_TIME = (
    "the orchestrator asked for {count} services at once ({names}); a task runs in one service at "
    "a time: return one new_task message, and the next one after its result"
)


class RoutingError(ConfigurationError):
    """The orchestrator's decision cannot be carried out."""


class Router:
    """Applies the rules of a custom orchestrator to tasks in the store."""

    def __init__(self, store: StateStore, outbox: Outbox, orchestrator: BaseOrchestrator) -> None:
        self._store = store
        self._outbox = outbox
        self._orchestrator = orchestrator

    async def first(
        self, task: TaskDefinition, state: dict[str, Any]
    ) -> tuple[str, str, dict[str, Any]]:
        """Service and input a new task begins with, and the changes of the session's state.

        Raises:
            RoutingError: the orchestrator raised, or did not name one service.
        """
        before = copy.deepcopy(state)
        try:
            messages, after = await self._orchestrator.get_next_messages(task, state)
            after = to_jsonable_python({**state, **after})
        except Exception as error:
            raise RoutingError(
                f"the orchestrator failed on the new task: {type(error).__name__}: {error}"
            ) from error
        step = _next_step(messages)
        if step is None:
            raise RoutingError("the orchestrator returned no new_task message for the new task")
        changes = {k: v for k, v in after.items() if k not in before or before[k] != v}
        return *step, changes

    async def route(self, task_id: str) -> None:
        """Decide and commit what follows the task's last result; repeating it changes nothing."""
        while (stage := await self._store.routing_stage(task_id)) is not None:
            finished = await self._store.commit_route(await self._decide(stage))
            if finished.accepted:
                await self._outbox.publish(finished.publish)
                return

    async def _decide(self, stage: RoutingStage) -> RouteCommit:
        state = copy.deepcopy(stage.state)
        try:
            result = TaskResult(task_id=stage.task_id, result=stage.result, data=stage.data)
            state.update(await self._orchestrator.add_result_to_state(result, state))
            task = TaskDefinition(
                task_id=stage.task_id,
                session_id=stage.session_id,
                service_id=stage.service,
                input=stage.input,
            )
            messages, changes = await self._orchestrator.get_next_messages(task, state)
            return _commit(stage, messages, {**state, **changes})
        except Exception as error:  # noqa: BLE001 - a user's code: whatever it raises ends the task
            return _failure(stage, error)


def _commit(
    stage: RoutingStage, messages: list[QueueMessage], state: dict[str, Any]
) -> RouteCommit:
    step = _next_step(messages)
    common: dict[str, Any] = {
        "task_id": stage.task_id,
        "stage": stage.stage,
        "version": stage.version,
        "state": _plain(state),
    }
    if step is not None:
        return RouteCommit(next_service=step[0], next_input=step[1], **common)
    final = _final_result(stage.task_id, messages, state)
    failed = final.data.get("state") == TaskState.FAILED
    return RouteCommit(
        final_state=TaskState.FAILED if failed else TaskState.SUCCEEDED,
        final_result=final.result,
        final_data=final.data,
        **common,
    )


def _next_step(messages: list[QueueMessage]) -> tuple[str, str] | None:
    tasks = [m for m in messages if m.action == ActionTypes.NEW_TASK]
    if not tasks:
        return None
    if len(tasks) > 1:
        names = ", ".join(m.type for m in tasks)
        raise RoutingError(ONE_AT_A_TIME.format(count=len(tasks), names=names))
    text = tasks[0].data.get("input")
    if not isinstance(text, str):
        raise RoutingError(
            f"the orchestrator's new_task message for service '{tasks[0].type}' has no text in "
            "data['input']: put the next run's arguments there, as a JSON object in a string"
        )
    return tasks[0].type, text


def _final_result(task_id: str, messages: list[QueueMessage], state: dict[str, Any]) -> TaskResult:
    found = state.get(get_result_key(task_id))
    if found is None:
        done = [m.data for m in messages if m.action == ActionTypes.COMPLETED_TASK]
        if not done:
            raise RoutingError(
                "the orchestrator returned neither a new_task message nor a result: set "
                f"state[get_result_key(task_id)] ('{get_result_key(task_id)}') to end the task"
            )
        found = done[0]
    if isinstance(found, TaskResult):
        return found
    try:
        return TaskResult.model_validate(json.loads(found) if isinstance(found, str) else found)
    except (ValidationError, ValueError) as error:
        raise RoutingError(f"the orchestrator's result is not a TaskResult: {error}") from error


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = to_jsonable_python(state)
    except (PydanticSerializationError, ValueError) as error:
        raise RoutingError(f"the orchestrator's state cannot be stored as JSON: {error}") from error
    return plain


def _failure(stage: RoutingStage, error: Exception) -> RouteCommit:
    message = (
        f"{error}"
        if isinstance(error, RoutingError)
        else (
            f"the orchestrator failed after the result of service '{stage.service}': "
            f"{type(error).__name__}: {error}"
        )
    )
    details = {
        "type": type(error).__name__,
        "message": message,
        "traceback": "".join(traceback.format_exception(error)),
    }
    return RouteCommit(
        task_id=stage.task_id,
        stage=stage.stage,
        version=stage.version,
        state=stage.state,
        final_state=TaskState.FAILED,
        final_result=message,
        final_data={"state": TaskState.FAILED.value, "error": details},
    )
