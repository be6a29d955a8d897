"""The API server's half of the SDK: the server and its deployments."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx

from llamadeploy.client.dead_letters import DeadLetterCollection
from llamadeploy.client.model import Model
from llamadeploy.client.services import DeploymentServices
from llamadeploy.client.sessions import SessionCollection
from llamadeploy.client.tasks import TaskCollection
from llamadeploy.types import LogLine, Status, StatusEnum

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

    @property
    def services(self) -> DeploymentServices:
        """The services of this deployment."""
        return DeploymentServices(self.client, self.id)

    @property
    def dead_letters(self) -> DeadLetterCollection:
        """Work that was given up."""
        return DeadLetterCollection(self.client, self._url)

    @property
    def _url(self) -> str:
        return f"{self.client.api_server_url}/deployments/{self.id}"

    async def delete(self, drain: float | None = None) -> None:
        """Stop the deployment and remove it with its records and its work directory.

        Its running tasks get ``drain`` seconds to end (by default as many as the server gives at
        its own end); what is unfinished then is cancelled.

        Raises:
            ServerError: 404, no such deployment; 409, it is being changed.
        """
        params = {} if drain is None else {"drain": drain}
        await self.client.transport.request(
            "DELETE", self._url, params=params, timeout=self.client.transport.longer(drain)
        )

    async def logs(
        self, service: str | None = None, tail: int = 100, follow: bool = False
    ) -> AsyncGenerator[LogLine]:
        """The last ``tail`` lines that its workers (or those of one service) wrote.

        Args:
            follow: go on with what they write.

        Raises:
            ServerError: 404, no such deployment or service.
        """
        params: dict[str, Any] = {"tail": tail, "follow": follow, "format": "json"}
        if service is not None:
            params["service"] = service
        async with aclosing(self.client.transport.lines(f"{self._url}/logs", params)) as lines:
            async for line in lines:
                yield LogLine.model_validate(line)
