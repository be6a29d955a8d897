"""The tasks of a deployment."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, overload

from llamadeploy.client.model import EventLike, Model, serialize_event
from llamadeploy.client.streams import typed_events
from llamadeploy.client.waiting import wait_for
from llamadeploy.types import (
    CancelOutcome,
    EventDefinition,
    StreamRestart,
    TaskDefinition,
    TaskEvent,
    TaskResult,
    TaskState,
    TaskStatus,
)

if TYPE_CHECKING:
    from llamadeploy.client.client import Client


class TaskCollection(Model):
    """The tasks of a deployment (``id`` is the deployment's name)."""

    @property
    def _deployment_url(self) -> str:
        return f"{self.client.api_server_url}/deployments/{self.id}"

    @property
    def _url(self) -> str:
        return f"{self._deployment_url}/tasks"

    async def run(self, task: TaskDefinition) -> Any:
        """Run a task and return its result's text.

        Raises:
            ServerError: no such service, no default service, or a wrong input.
        """
        return (await self.run_result(task)).result

    async def run_result(
        self, task: TaskDefinition, idempotency_key: str | None = None
    ) -> TaskResult:
        """Run a task and return its result; ``data`` has the ``state`` of one that did not succeed.

        Args:
            idempotency_key: a repeat with the same key and task returns the first one's result.

        Raises:
            ServerError: as :meth:`run`.
        """
        response = await self._submit("run", task, idempotency_key)
        state = response.headers.get("x-task-state", TaskState.SUCCEEDED)
        return TaskResult(
            task_id=response.headers.get("x-task-id", ""),
            result=response.json(),
            data={} if state == TaskState.SUCCEEDED else {"state": state},
        )

    async def create(self, task: TaskDefinition, idempotency_key: str | None = None) -> Task:
        """Start a task without waiting for its result.

        Args:
            idempotency_key: a repeat with the same key and task returns the first one's task.
        """
        response = await self._submit("create", task, idempotency_key)
        created = TaskDefinition.model_validate(response.json())
        return Task(self.client, self.id, created.session_id or "", created.task_id)

    async def _submit(self, route: str, task: TaskDefinition, key: str | None) -> Any:
        params = {"session_id": task.session_id} if task.session_id else {}
        headers = {"Idempotency-Key": key} if key else {}
        return await self.client.transport.request(
            "POST", f"{self._url}/{route}", params=params, json=task.model_dump(), headers=headers
        )

    async def get(self, task_id: str) -> Task:
        """A task by its id.

        Raises:
            ServerError: 404, no such task, or it has expired.
        """
        response = await self.client.transport.request("GET", f"{self._url}/{task_id}")
        status = TaskStatus.model_validate(response.json())
        return Task(self.client, self.id, status.session_id, status.task_id)

    async def list(self) -> list[Task]:
        """All tasks, oldest first."""
        response = await self.client.transport.request("GET", self._url)
        definitions = [TaskDefinition.model_validate(item) for item in response.json()]
        return [Task(self.client, self.id, d.session_id or "", d.task_id) for d in definitions]

    async def statuses(
        self,
        *,
        session_id: str | None = None,
        service: str | None = None,
        states: Sequence[TaskState | str] = (),
        before: str | None = None,
        limit: int = 100,
    ) -> list[TaskStatus]:  # type: ignore[valid-type] # the method above has the name
        """Where tasks stand, the newest first.

        Args:
            states: only tasks in one of these states.
            before: a task's id: only older ones, for the next page.
            limit: at most 1000.
        """
        chosen = {"session_id": session_id, "service": service, "before": before}
        params = {name: value for name, value in chosen.items() if value is not None}
        response = await self.client.transport.request(
            "GET",
            f"{self._deployment_url}/task-statuses",
            params={**params, "state": [str(state) for state in states], "limit": limit},
        )
        return [TaskStatus.model_validate(item) for item in response.json()]


class Task(Model):
    """A task of a deployment."""

    def __init__(self, client: Client, deployment_id: str, session_id: str, id: str) -> None:
        super().__init__(client, id)
        self.deployment_id = deployment_id
        self.session_id = session_id

    @property
    def _url(self) -> str:
        return f"{self.client.api_server_url}/deployments/{self.deployment_id}/tasks/{self.id}"

    @property
    def _params(self) -> dict[str, Any]:
        return {"session_id": self.session_id}

    async def status(self) -> TaskStatus:
        """Where the task stands.

        Raises:
            ServerError: 404, it has expired.
        """
        response = await self.client.transport.request("GET", self._url, params=self._params)
        return TaskStatus.model_validate(response.json())

    async def cancel(self) -> CancelOutcome:
        """End the task unless it has finished; the outcome says which of the two holds."""
        response = await self.client.transport.request(
            "POST", f"{self._url}/cancel", params=self._params
        )
        return CancelOutcome.model_validate(response.json())

    async def results(self, wait: float | None = None) -> TaskResult | None:
        """The result, or ``None`` while there is none.

        Args:
            wait: seconds the server may hold the question open for the result to come.
        """
        params = self._params if wait is None else {**self._params, "wait": wait}
        response = await self.client.transport.request(
            "GET",
            f"{self._url}/results",
            params=params,
            timeout=self.client.transport.longer(wait),
        )
        data = response.json()
        return TaskResult.model_validate(data) if data else None

    async def result(self, wait: float | None = None) -> TaskResult | None:
        """The result once the task has ended, ``None`` when it has not within ``wait`` seconds.

        Args:
            wait: ``None`` waits for as long as it takes.
        """
        return await wait_for(self.results, wait)

    async def send_event(self, ev: EventLike, service_name: str) -> EventDefinition:
        """Send an event to the running workflow, for instance a person's answer."""
        event = EventDefinition(event_obj_str=serialize_event(ev), service_id=service_name)
        response = await self.client.transport.request(
            "POST", f"{self._url}/events", params=self._params, json=event.model_dump()
        )
        return EventDefinition.model_validate(response.json())

    @overload
    def events(
        self, after: int = 0, *, typed: Literal[False] = False, follow: bool = True
    ) -> AsyncGenerator[dict[str, Any]]: ...

    @overload
    def events(
        self, after: int = 0, *, typed: Literal[True], follow: bool = True
    ) -> AsyncGenerator[TaskEvent | StreamRestart]: ...

    async def events(
        self, after: int = 0, *, typed: bool = False, follow: bool = True
    ) -> AsyncGenerator[Any]:
        """The events of the task's stream, until the task ends.

        Args:
            after: ``seq`` of the last event that is known; 0 begins at the first.
            typed: yield :class:`TaskEvent` with ``seq``, ``attempt``, ``index`` and ``type``, and
                :class:`StreamRestart` where a new attempt begins below what was yielded; a
                connection that breaks is continued. Else yield the events' fields alone.
            follow: wait for what comes, else end with what is there.
        """
        params = {**self._params, "follow": follow}
        if typed:
            stream = typed_events(self.client.transport, f"{self._url}/events", params, after)
            async with aclosing(stream) as items:
                async for item in items:
                    yield item
            return
        params["after"] = after
        async with aclosing(self.client.transport.lines(f"{self._url}/events", params)) as lines:
            async for event in lines:
                yield event
