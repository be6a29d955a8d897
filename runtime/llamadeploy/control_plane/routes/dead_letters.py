"""Work that was given up: look at it, try it again, or drop it."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter

from llamadeploy.control_plane.control_plane import ControlPlane


def dead_letters_router(control_plane: ControlPlane) -> APIRouter:
    """Routes under ``/dead-letters``."""
    router = APIRouter(prefix="/dead-letters", tags=["Dead letters"])

    @router.get("")
    async def list_dead_letters() -> list[dict[str, Any]]:
        return [msgspec.to_builtins(letter) for letter in await control_plane.dead_letters()]

    @router.post("/{letter_id}/retry")
    async def retry_dead_letter(letter_id: int) -> None:
        """Queue the letter's task again, with its retries renewed."""
        await control_plane.retry_dead_letter(letter_id)

    @router.delete("/{letter_id}")
    async def delete_dead_letter(letter_id: int) -> None:
        await control_plane.delete_dead_letter(letter_id)

    return router
