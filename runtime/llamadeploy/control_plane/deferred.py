"""A state store that is opened when its control plane starts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from llamadeploy.exceptions import StoreUnavailableError
from llamadeploy.state_stores.base import StateStore


class DeferredStore:
    """Hands every call to the store that :meth:`open` opened.

    An application is built before an event loop runs, and a store is opened inside of one.
    """

    def __init__(self, opener: Callable[[], Awaitable[StateStore]]) -> None:
        self._opener = opener
        self._store: StateStore | None = None

    async def open(self) -> None:
        """Open the store unless it is open. Raises what the opener raises."""
        if self._store is None:
            self._store = await self._opener()

    async def aclose(self) -> None:
        """Close the store, if it is open."""
        store, self._store = self._store, None
        if store is not None:
            await store.aclose()

    def __getattr__(self, name: str) -> Any:
        if self._store is None:
            raise StoreUnavailableError("the control plane has not been started")
        return getattr(self._store, name)

    def as_store(self) -> StateStore:
        """Itself, by the contract it fulfils once it is open."""
        return cast(StateStore, self)
