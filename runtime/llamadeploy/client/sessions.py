"""The sessions of a deployment."""

from __future__ import annotations

from llamadeploy.client.model import Model
from llamadeploy.types import SessionDefinition


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
