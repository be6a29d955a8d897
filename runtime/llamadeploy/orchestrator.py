"""Where a task goes next: rules over a task, the session's state and results, without any I/O.

A user's own orchestrator subclasses :class:`BaseOrchestrator` (or :class:`SimpleOrchestrator`).
Whoever calls it stores the state between the calls, so the state has to stay plain JSON.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.types import TaskDefinition, TaskResult

FINAL_MESSAGE_TYPE = "human"
"""The message type under which a finished task leaves the services."""


class BaseOrchestrator(ABC):
    """Decides which messages a task causes, first when it is created, then after each result."""

    @abstractmethod
    async def get_next_messages(
        self, task_def: TaskDefinition, state: dict[str, Any]
    ) -> tuple[list[QueueMessage], dict[str, Any]]:
        """The messages to publish now, and the new state.

        A ``new_task`` message of type S sends the task to the service S. A ``completed_task``
        message (its data a :class:`TaskResult`) ends the task with that result. No message at
        all leaves the task as it is, waiting for other results.
        """
        ...

    @abstractmethod
    async def add_result_to_state(
        self, result: TaskResult, state: dict[str, Any]
    ) -> dict[str, Any]:
        """The state with a service's result in it."""
        ...


class SimpleOrchestratorConfig(BaseSettings):
    """Settings of :class:`SimpleOrchestrator` (``SIMPLE_ORCHESTRATOR_*``)."""

    model_config = SettingsConfigDict(env_prefix="SIMPLE_ORCHESTRATOR_")

    max_retries: int = 3
    final_message_type: str | None = None


class SimpleOrchestrator(BaseOrchestrator):
    """One service per task: its first result is the task's.

    Args:
        max_retries: kept for callers of 0.8.1, where it had no effect either; how often a lost
            task is tried again is the service's ``max-retries``.
        final_message_type: type of the message that ends the task.
    """

    def __init__(
        self, max_retries: int = 3, final_message_type: str | None = FINAL_MESSAGE_TYPE
    ) -> None:
        self.max_retries = max_retries
        self.final_message_type = final_message_type or FINAL_MESSAGE_TYPE

    @classmethod
    def from_config(cls, config: SimpleOrchestratorConfig) -> SimpleOrchestrator:
        """The orchestrator that a configuration describes."""
        return cls(config.max_retries, config.final_message_type)

    async def get_next_messages(
        self, task_def: TaskDefinition, state: dict[str, Any]
    ) -> tuple[list[QueueMessage], dict[str, Any]]:
        """The task for its service, or, once there is a result, the message that ends it.

        Raises:
            ValueError: the task names no service, or the state holds something that is no result.
        """
        if not task_def.service_id:
            raise ValueError(f"task {task_def.task_id} has no service_id: name the service to run")
        stored = state.get(get_result_key(task_def.task_id))
        if stored is None:
            message = QueueMessage(
                type=task_def.service_id, action=ActionTypes.NEW_TASK, data=task_def.model_dump()
            )
            return [message], {**state, task_def.task_id: state.get(task_def.task_id, {})}
        result = _result_from(stored, task_def.task_id)
        message = QueueMessage(
            type=self.final_message_type,
            action=ActionTypes.COMPLETED_TASK,
            data=result.model_dump(),
        )
        return [message], dict(state)

    async def add_result_to_state(
        self, result: TaskResult, state: dict[str, Any]
    ) -> dict[str, Any]:
        """The state with the result, as plain JSON, under :func:`get_result_key`."""
        return {**state, get_result_key(result.task_id): result.model_dump(mode="json")}


def is_simple(orchestrator: BaseOrchestrator | None) -> bool:
    """Whether a task's first result ends it, so that it can be finished without a routing stage.

    True for none at all and for exactly :class:`SimpleOrchestrator`: a subclass may have changed
    the rules.
    """
    return orchestrator is None or type(orchestrator) is SimpleOrchestrator


def get_result_key(task_id: str) -> str:
    """The key of a task's result in the state."""
    return f"result_{task_id}"


def get_stream_key(task_id: str) -> str:
    """The key of a task's stream in the state, as 0.8.1 names it."""
    return f"stream_{task_id}"


def _result_from(stored: Any, task_id: str) -> TaskResult:
    if isinstance(stored, TaskResult):
        return stored
    try:
        return TaskResult.model_validate(json.loads(stored) if isinstance(stored, str) else stored)
    except (ValidationError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the state's {get_result_key(task_id)!r} is no task result but a "
            f"{type(stored).__name__}: store a TaskResult, its dict or its JSON text"
        ) from error
