"""Sessions and the state that users and custom orchestrators keep in them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from llamadeploy.exceptions import NotFoundError, StoreError
from llamadeploy.messages import ActionTypes
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.state_stores.base import StateStore
from llamadeploy.types import SessionDefinition, generate_id

log = logging.getLogger(__name__)

NO_SESSION = "Session not found"

DELETE_SECONDS = 1.0
"""For how long sessions are collected that are to be deleted, so that they share a commit."""

DELETE_STEP = 100
"""Sessions deleted in one step (two or three milliseconds): others get their turn in between."""


class Sessions:
    """Use cases about sessions."""

    def __init__(self, store: StateStore, outbox: Outbox) -> None:
        self._store = store
        self._outbox = outbox
        self._doomed: set[str] = set()
        self._hurry = asyncio.Event()
        self._deletions: set[asyncio.Task[None]] = set()

    async def create(self, session_id: str | None = None) -> str:
        """Create a session and return its id.

        Raises:
            ConflictError: ``session_id`` exists.
        """
        session_id = session_id or generate_id()
        await self._store.create_session(session_id)
        return session_id

    async def get(self, session_id: str) -> SessionDefinition:
        """Raises NotFoundError."""
        await self.settled()
        found = await self._store.get_session(session_id)
        if found is None:
            raise NotFoundError(NO_SESSION)
        return found

    async def all(self) -> list[SessionDefinition]:
        await self.settled()
        return await self._store.list_sessions()

    async def delete(self, session_id: str) -> None:
        """Cancel what is unfinished in it and forget it with its tasks. Idempotent."""
        cancelled = await self._store.delete_session(session_id)
        if cancelled is not None:
            await self._outbox.publish(cancelled.publish)
            await self._outbox.nudge(ActionTypes.CANCEL_TASK, cancelled.nudge)

    def delete_soon(self, session_id: str) -> None:
        """Delete it behind the reply that is being sent; reads of sessions wait for it."""
        self._doomed.add(session_id)
        if len(self._doomed) == 1:
            task = asyncio.create_task(self._delete_doomed())
            self._deletions.add(task)
            task.add_done_callback(self._deletions.discard)

    async def _delete_doomed(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), DELETE_SECONDS)
        self._hurry.clear()
        doomed, self._doomed = list(self._doomed), set()
        for first in range(0, len(doomed), DELETE_STEP):
            await self._forget(doomed[first : first + DELETE_STEP])

    async def _forget(self, session_ids: list[str]) -> None:
        try:
            busy = await self._store.forget_sessions(session_ids)
        except StoreError as error:
            log.warning("%d sessions stay until their retention ends: %s", len(session_ids), error)
            return
        await asyncio.gather(*map(self._delete_quietly, busy))

    async def _delete_quietly(self, session_id: str) -> None:
        try:
            await self.delete(session_id)
        except StoreError as error:
            log.warning("session %s stays until its retention ends: %s", session_id, error)

    async def settled(self) -> None:
        """Return when the deletions that were begun are done."""
        if self._doomed:
            self._hurry.set()
        if self._deletions:
            await asyncio.gather(*self._deletions)

    async def state(self, session_id: str) -> dict[str, Any]:
        """Raises NotFoundError."""
        return (await self.get(session_id)).state

    async def merge_state(self, session_id: str, patch: dict[str, Any]) -> None:
        """Shallow merge.

        Raises:
            NotFoundError: no such session.
        """
        await self._store.merge_session_state(session_id, patch)
