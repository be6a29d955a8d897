"""What messages to the control plane ask for: routes, and what services of 0.8.1's kind send."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from llamadeploy.exceptions import ConfigurationError, NotFoundError
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.orchestration.router import Router
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import NewEvent
from llamadeploy.types import TaskDefinition, TaskResult, TaskStream


class Messages:
    """Acts on messages.

    Args:
        router: applies the orchestrator's rules.
        create: stores and publishes a new task.
    """

    def __init__(
        self,
        store: StateStore,
        outbox: Outbox,
        router: Router,
        create: Callable[[TaskDefinition], Awaitable[None]],
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._router = router
        self._create = create

    async def process(self, message: QueueMessage) -> None:
        """See :meth:`ControlPlane.process_message`."""
        try:
            await self._process(message)
        except ValidationError as error:
            details = "; ".join(
                f"data.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
            raise ConfigurationError(
                f"message {message.id_} ({message.action}): {details}"
            ) from None

    async def complete(self, result: TaskResult) -> None:
        """See :meth:`ControlPlane.complete`."""
        if await self._store.get_task(result.task_id) is None:
            raise NotFoundError(f"task {result.task_id} is unknown or was forgotten")
        finished = await self._store.complete(result.task_id, result.result, result.data)
        await self._outbox.publish(finished.publish)

    async def _process(self, message: QueueMessage) -> None:
        match message.action:
            case ActionTypes.NEW_TASK:
                await self._create(TaskDefinition.model_validate(message.data))
            case ActionTypes.COMPLETED_TASK:
                await self.complete(TaskResult.model_validate(message.data))
            case ActionTypes.TASK_STREAM:
                await self._append(TaskStream.model_validate(message.data))
            case ActionTypes.ROUTE_TASK:
                await self._route(message)
            case _:
                raise ConfigurationError(
                    "action: a control plane takes new_task, completed_task and task_stream, "
                    f"not {message.action}"
                )

    async def _append(self, event: TaskStream) -> None:
        data = json.dumps(event.data)
        await self._store.append_foreign_event(
            event.task_id, NewEvent(index=event.index, type="", data=data)
        )

    async def _route(self, message: QueueMessage) -> None:
        task_id = message.data.get("task_id")
        if not isinstance(task_id, str):
            raise ConfigurationError("data.task_id: a route message names its task")
        await self._router.route(task_id)
