"""Services at run time: how they are, and stopping, restarting, scaling them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamadeploy.client.model import Model
from llamadeploy.types import ServiceScaling, ServiceStatus

if TYPE_CHECKING:
    from llamadeploy.client.client import Client


class ServiceOperations(Model):
    """Operations on services below ``owner_url``. Those that change workers need the server that
    runs them: elsewhere they are refused (400)."""

    def __init__(self, client: Client, id: str, owner_url: str) -> None:
        super().__init__(client, id)
        self._url = f"{owner_url}/services"

    async def scaling(
        self, service_name: str, *, wait: float = 0, version: str = ""
    ) -> ServiceScaling:
        """The service's unfinished work, for an autoscaler.

        Args:
            wait: seconds; with the ``version`` of an earlier reply this one comes as soon as that
                does not hold any more, or after this time.

        Raises:
            ServerError: 404, no such service; 503, the state store is away.
        """
        transport = self.client.transport
        response = await transport.request(
            "GET",
            f"{self._url}/{service_name}/scaling",
            params={"wait": wait, "version": version} if wait else None,
            timeout=transport.longer(wait),
        )
        return ServiceScaling.model_validate(response.json())

    async def stop(self, service_name: str) -> None:
        """Drain and end the service's workers; its tasks queue until it is restarted. Idempotent.

        Raises:
            ServerError: 404, no such service; 409, the deployment is being changed.
        """
        await self.client.transport.request("POST", f"{self._url}/{service_name}/stop")

    async def restart(self, service_name: str) -> None:
        """Replace the service's workers, the new ones ready before the old ones drain; start it if
        it was stopped. Returns when that is done.

        Raises:
            ServerError: the new ones did not get ready, and the old ones serve on; or as ``stop``.
        """
        await self.client.transport.request("POST", f"{self._url}/{service_name}/restart")

    async def scale(self, service_name: str, replicas: int) -> None:
        """Have that many workers, until the next reload. Returns when they are ready.

        Raises:
            ServerError: a new one did not get ready, and the old number serves on; or as ``stop``.
        """
        await self.client.transport.request(
            "POST", f"{self._url}/{service_name}/scale", json={"replicas": replicas}
        )


class DeploymentServices(ServiceOperations):
    """The services of a deployment (``id`` is the deployment's name)."""

    def __init__(self, client: Client, id: str) -> None:
        super().__init__(client, id, f"{client.api_server_url}/deployments/{id}")

    async def list(self) -> list[ServiceStatus]:
        """All services with their workers and their unfinished work."""
        response = await self.client.transport.request("GET", self._url)
        return [ServiceStatus.model_validate(item) for item in response.json()]
