"""Work that was given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamadeploy.client.model import Model
from llamadeploy.types import DeadLetterDefinition

if TYPE_CHECKING:
    from llamadeploy.client.client import Client


class DeadLetterCollection(Model):
    """The dead letters of a deployment or control plane, whose URL is ``owner_url``."""

    def __init__(self, client: Client, owner_url: str) -> None:
        super().__init__(client, "dead-letters")
        self._url = f"{owner_url}/dead-letters"

    async def list(self) -> list[DeadLetterDefinition]:
        """All of them, oldest first."""
        response = await self.client.transport.request("GET", self._url)
        return [DeadLetterDefinition.model_validate(item) for item in response.json()]

    async def retry(self, letter_id: int) -> None:
        """Queue the letter's task again, with its retries renewed.

        Raises:
            ServerError: 404, no such letter, or it is about no task.
        """
        await self.client.transport.request("POST", f"{self._url}/{letter_id}/retry")

    async def delete(self, letter_id: int) -> None:
        """Forget the letter; its task keeps its result.

        Raises:
            ServerError: 404, no such letter.
        """
        await self.client.transport.request("DELETE", f"{self._url}/{letter_id}")
