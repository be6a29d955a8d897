"""The control plane's half of the SDK: sessions, their tasks, and services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from llamadeploy.client.dead_letters import DeadLetterCollection
from llamadeploy.client.errors import ServerError
from llamadeploy.client.model import EventLike, Model, serialize_event
from llamadeploy.client.services import ServiceOperations
from llamadeploy.client.streams import typed_events
from llamadeploy.client.waiting import RESULT_WAIT
from llamadeploy.types import (
    CancelOutcome,
    EventDefinition,
    ServiceDefinition,
    StreamRestart,
    TaskDefinition,
    TaskEvent,
    TaskResult,
    TaskStatus,
)

if TYPE_CHECKING:
    from llamadeploy.client.client import Client


class Core(Model):
    """A control plane."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, "core")

    @property
    def sessions(self) -> SessionCollection:
        """The sessions of this control plane."""
        return SessionCollection(self.client, "sessions")

    @property
    def services(self) -> ServiceCollection:
        """The services registered with this control plane."""
        return ServiceCollection(self.client, "services", self.client.control_plane_url)

    @property
    def dead_letters(self) -> DeadLetterCollection:
        """Work that was given up."""
        return DeadLetterCollection(self.client, self.client.control_plane_url)


class SessionCollection(Model):
    """The sessions of a control plane."""

    @property
    def _url(self) -> str:
        return f"{self.client.control_plane_url}/sessions"

    async def create(self) -> Session:
        """Create a session."""
        response = await self.client.transport.request("POST", f"{self._url}/create")
        return Session(self.client, response.json())

    async def get(self, id: str) -> Session:
        """A session by its id.

        Raises:
            ServerError: 404, no such session.
        """
        await self.client.transport.request("GET", f"{self._url}/{id}")
        return Session(self.client, id)

    async def get_or_create(self, id: str) -> Session:
        """The session of that id, or a new one (with an id of its own) where there is none."""
        try:
            return await self.get(id)
        except ServerError as error:
            if error.status_code != 404:
                raise
            return await self.create()

    async def list(self) -> list[Session]:
        """All sessions."""
        response = await self.client.transport.request("GET", self._url)
        return [Session(self.client, id) for id in response.json()]

    async def delete(self, session_id: str) -> None:
        """Delete a session; its unfinished tasks are cancelled. Idempotent."""
        await self.client.transport.request("POST", f"{self._url}/{session_id}/delete")


class Session(Model):
    """A session: tasks that share a workflow's context."""

    @property
    def _url(self) -> str:
        return f"{self.client.control_plane_url}/sessions/{self.id}"

    async def run(self, service_name: str, **run_kwargs: Any) -> str:
        """Run a service's workflow and return its result's text.

        Raises:
            TimeoutError: no result within the client's ``timeout``; the task goes on.
            ServerError: the task was refused.
        """
        task_id = await self.run_nowait(service_name, **run_kwargs)
        async with asyncio.timeout(self.client.timeout):
            while True:
                result = await self.get_task_result(task_id, wait=RESULT_WAIT)
                if result is not None:
                    return result.result
                await asyncio.sleep(self.client.poll_interval)

    async def run_nowait(self, service_name: str, **run_kwargs: Any) -> str:
        """Start a service's workflow; returns the task's id."""
        return await self.create_task(
            TaskDefinition(input=json.dumps(run_kwargs), service_id=service_name)
        )

    async def create_task(self, task_def: TaskDefinition) -> str:
        """Create a task in this session; returns its id, which is the one you give.

        Raises:
            ServerError: 409, another task has that id; 404, no such session.
        """
        definition = task_def.model_copy(update={"session_id": self.id})
        response = await self.client.transport.request(
            "POST", f"{self._url}/tasks", json=definition.model_dump()
        )
        return str(response.json())

    async def get_task_result(self, task_id: str, wait: float | None = None) -> TaskResult | None:
        """The result, or ``None`` while there is none.

        Args:
            wait: seconds the server may hold the question open for the result to come.
        """
        params = {} if wait is None else {"wait": wait}
        response = await self.client.transport.request(
            "GET",
            f"{self._url}/tasks/{task_id}/result",
            params=params,
            timeout=self.client.transport.longer(wait),
        )
        data = response.json()
        return TaskResult.model_validate(data) if data else None

    async def get_task_status(self, task_id: str) -> TaskStatus:
        """Where a task stands.

        Raises:
            ServerError: 404, no such task, or it has expired.
        """
        response = await self.client.transport.request("GET", f"{self._url}/tasks/{task_id}")
        return TaskStatus.model_validate(response.json())

    async def cancel_task(self, task_id: str) -> CancelOutcome:
        """End a task unless it has finished; the outcome says which of the two holds."""
        response = await self.client.transport.request(
            "POST", f"{self._url}/tasks/{task_id}/cancel"
        )
        return CancelOutcome.model_validate(response.json())

    async def get_tasks(self) -> list[TaskDefinition]:
        """The session's tasks, oldest first."""
        response = await self.client.transport.request("GET", f"{self._url}/tasks")
        return [TaskDefinition.model_validate(item) for item in response.json()]

    async def send_event(self, service_name: str, task_id: str, ev: EventLike) -> None:
        """Send an event to a running workflow, for instance a person's answer."""
        await self.send_event_def(
            task_id, EventDefinition(event_obj_str=serialize_event(ev), service_id=service_name)
        )

    async def send_event_def(self, task_id: str, ev_def: EventDefinition) -> None:
        """Send an event that is already serialised."""
        await self.client.transport.request(
            "POST", f"{self._url}/tasks/{task_id}/send_event", json=ev_def.model_dump()
        )

    async def get_task_result_stream(self, task_id: str) -> AsyncGenerator[dict[str, Any]]:
        """The events of the task's stream from the first one on, until the task ends.

        Raises:
            ServerError: 404, no such session or task.
        """
        url = f"{self._url}/tasks/{task_id}/result_stream"
        async with aclosing(self.client.transport.lines(url)) as lines:
            async for event in lines:
                yield event

    async def get_task_events(
        self, task_id: str, after: int = 0, follow: bool = True
    ) -> AsyncGenerator[TaskEvent | StreamRestart]:
        """The events of the task's stream with ``seq``, ``attempt``, ``index`` and ``type``, until
        the task ends; see ``typed`` of :meth:`llamadeploy.client.tasks.Task.events`.

        Raises:
            ServerError: 404, no such session or task.
        """
        url = f"{self._url}/tasks/{task_id}/result_stream"
        stream = typed_events(self.client.transport, url, {"follow": follow}, after)
        async with aclosing(stream) as items:
            async for item in items:
                yield item


class Service(Model):
    """A registered service by its name."""


class ServiceCollection(ServiceOperations):
    """The services of a control plane."""

    async def list(self) -> list[Service]:
        """All registered services."""
        response = await self.client.transport.request("GET", self._url)
        return [Service(self.client, name) for name in response.json()]

    async def get(self, id: str) -> ServiceDefinition:
        """A service's definition.

        Raises:
            ServerError: 404, no such service.
        """
        response = await self.client.transport.request("GET", f"{self._url}/{id}")
        return ServiceDefinition.model_validate(response.json())

    async def register(self, service: ServiceDefinition) -> Service:
        """Register a service."""
        await self.client.transport.request(
            "POST", f"{self._url}/register", json=service.model_dump(mode="json")
        )
        return Service(self.client, service.service_name)

    async def deregister(self, service_name: str) -> None:
        """Deregister a service. Idempotent."""
        await self.client.transport.request(
            "POST", f"{self._url}/deregister", params={"service_name": service_name}
        )
