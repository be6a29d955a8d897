"""The API server's half of the SDK: deployments, their tasks and sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx

from llamadeploy.client.model import EventLike, Model, serialize_event
from llamadeploy.types import (
    EventDefinition,
    SessionDefinition,
    Status,
    StatusEnum,
    TaskDefinition,
    TaskResult,
)

if TYPE_CHECKING:
    from llamadeploy.client.client import Client


class ApiServer(Model):
    """An API server."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, "apiserver")

    async def status(self) -> Status:
        """How the server is; never raises for a server that is down, says so instead."""
        url = f"{self.client.api_server_url}/status/"
        try:
            response = await self.client.transport.request("GET", url)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            return Status(
                status=StatusEnum.DOWN,
                status_message=f"no API server answers at {self.client.api_server_url}: {reason}",
            )
        except httpx.HTTPStatusError as error:
            return Status(status=StatusEnum.UNHEALTHY, status_message=str(error))
        return Status.model_validate(response.json())

    @property
    def deployments(self) -> DeploymentCollection:
        """The deployments of this server."""
        return DeploymentCollection(self.client, "deployments")


class DeploymentCollection(Model):
    """The deployments of an API server."""

    @property
    def _url(self) -> str:
        return f"{self.client.api_server_url}/deployments"

    async def create(
        self,
        config: IO[str] | IO[bytes] | str | bytes,
        base_path: str | Path = ".",
        reload: bool = False,
        local: bool = False,
    ) -> Deployment:
        """Create a deployment from a deployment file or manifest; returns when it is ready.

        Args:
            config: the file, open, or its content.
            base_path: the folder on the server's machine that relative sources start from.
            reload: replace the code of an existing deployment.
            local: sources are used from where they are.

        Raises:
            ServerError: the file is wrong, the name exists, or a service does not start.
        """
        content = config if isinstance(config, str | bytes) else config.read()
        name = Path(str(getattr(config, "name", "deployment.yaml"))).name
        response = await self.client.transport.request(
            "POST",
            f"{self._url}/create",
            files={"config_file": (name, content)},
            params={"reload": reload, "local": local, "base_path": str(base_path)},
        )
        return Deployment(self.client, response.json()["name"])

    async def get(self, id: str) -> Deployment:
        """A deployment by its name.

        Raises:
            ServerError: 404, no such deployment.
        """
        await self.client.transport.request("GET", f"{self._url}/{id}")
        return Deployment(self.client, id)

    async def list(self) -> list[Deployment]:
        """All deployments."""
        response = await self.client.transport.request("GET", f"{self._url}/")
        return [Deployment(self.client, item["name"]) for item in response.json()]


class Deployment(Model):
    """A deployment by its name."""

    @property
    def tasks(self) -> TaskCollection:
        """The tasks of all sessions of this deployment."""
        return TaskCollection(self.client, self.id)

    @property
    def sessions(self) -> SessionCollection:
        """The sessions of this deployment."""
        return SessionCollection(self.client, self.id)


class TaskCollection(Model):
    """The tasks of a deployment (``id`` is the deployment's name)."""

    @property
    def _url(self) -> str:
        return f"{self.client.api_server_url}/deployments/{self.id}/tasks"

    async def run(self, task: TaskDefinition) -> Any:
        """Run a task and return its result's text.

        Raises:
            ServerError: no such service, no default service, or a wrong input.
        """
        params = {"session_id": task.session_id} if task.session_id else {}
        response = await self.client.transport.request(
            "POST", f"{self._url}/run", params=params, json=task.model_dump()
        )
        return response.json()

    async def create(self, task: TaskDefinition, idempotency_key: str | None = None) -> Task:
        """Start a task without waiting for its result.

        Args:
            idempotency_key: a repeat with the same key and task returns the first one's task.
        """
        params = {"session_id": task.session_id} if task.session_id else {}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        response = await self.client.transport.request(
            "POST", f"{self._url}/create", params=params, json=task.model_dump(), headers=headers
        )
        created = TaskDefinition.model_validate(response.json())
        return Task(self.client, self.id, created.session_id or "", created.task_id)

    async def list(self) -> list[Task]:
        """All tasks, oldest first."""
        response = await self.client.transport.request("GET", self._url)
        definitions = [TaskDefinition.model_validate(item) for item in response.json()]
        return [Task(self.client, self.id, d.session_id or "", d.task_id) for d in definitions]


class Task(Model):
    """A task of a deployment."""

    def __init__(self, client: Client, deployment_id: str, session_id: str, id: str) -> None:
        super().__init__(client, id)
        self.deployment_id = deployment_id
        self.session_id = session_id

    @property
    def _url(self) -> str:
        return f"{self.client.api_server_url}/deployments/{self.deployment_id}/tasks/{self.id}"

    async def results(self, wait: float | None = None) -> TaskResult | None:
        """The result, or ``None`` while there is none.

        Args:
            wait: seconds the server may hold the question open for the result to come.
        """
        params: dict[str, Any] = {"session_id": self.session_id}
        if wait is not None:
            params["wait"] = wait
        response = await self.client.transport.request("GET", f"{self._url}/results", params=params)
        data = response.json()
        return TaskResult.model_validate(data) if data else None

    async def send_event(self, ev: EventLike, service_name: str) -> EventDefinition:
        """Send an event to the running workflow, for instance a person's answer."""
        event = EventDefinition(event_obj_str=serialize_event(ev), service_id=service_name)
        response = await self.client.transport.request(
            "POST",
            f"{self._url}/events",
            params={"session_id": self.session_id},
            json=event.model_dump(),
        )
        return EventDefinition.model_validate(response.json())

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """The events of the task's stream from the first one on, until the task ends."""
        params = {"session_id": self.session_id}
        async with aclosing(self.client.transport.lines(f"{self._url}/events", params)) as lines:
            async for event in lines:
                yield event


class SessionCollection(Model):
    """The sessions of a deployment (``id`` is the deployment's name)."""

    @property
    def _url(self) -> str:
        return f"{self.client.api_server_url}/deployments/{self.id}/sessions"

    async def create(self) -> SessionDefinition:
        """Create a session."""
        response = await self.client.transport.request("POST", f"{self._url}/create")
        return SessionDefinition.model_validate(response.json())

    async def get(self, session_id: str) -> SessionDefinition:
        """A session by its id.

        Raises:
            ServerError: 404, no such session.
        """
        response = await self.client.transport.request("GET", f"{self._url}/{session_id}")
        return SessionDefinition.model_validate(response.json())

    async def delete(self, session_id: str) -> None:
        """Delete a session; its unfinished tasks are cancelled. Idempotent."""
        await self.client.transport.request(
            "POST", f"{self._url}/delete", params={"session_id": session_id}
        )

    async def list(self) -> list[SessionDefinition]:
        """All sessions."""
        response = await self.client.transport.request("GET", self._url)
        return [SessionDefinition.model_validate(item) for item in response.json()]
