"""Work that was given up: look at it, try it again, or drop it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.control_plane.routes.providers import Provider
from llamadeploy.types import DeadLetterDefinition

LARGEST = 2**63 - 1
"""Of the numbers that stores take."""

LetterId = Annotated[int, Path(ge=0, le=LARGEST)]


def dead_letters_router(provider: Provider) -> APIRouter:
    """Routes under ``/dead-letters``."""
    router = APIRouter(prefix="/dead-letters", tags=["Dead letters"])

    @router.get("")
    async def list_dead_letters(plane: ControlPlane = provider) -> list[DeadLetterDefinition]:
        """Oldest first."""
        letters = await plane.dead_letters()
        return [DeadLetterDefinition(**msgspec.to_builtins(letter)) for letter in letters]

    @router.post("/{letter_id}/retry")
    async def retry_dead_letter(letter_id: LetterId, plane: ControlPlane = provider) -> None:
        """Queue the letter's task again, with its retries renewed."""
        await plane.retry_dead_letter(letter_id)

    @router.delete("/{letter_id}")
    async def delete_dead_letter(letter_id: LetterId, plane: ControlPlane = provider) -> None:
        """Forget the letter; its task keeps its result."""
        await plane.delete_dead_letter(letter_id)

    return router
