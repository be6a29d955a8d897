from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llamadeploy.state_stores.postgresql.store import PostgreSQLStateStore

Opener = Callable[..., Awaitable[PostgreSQLStateStore]]


@pytest.fixture
async def open_store(unique: str) -> AsyncIterator[Opener]:
    """Opens stores of one deployment, each as another process would; closed after the test."""
    stores: list[PostgreSQLStateStore] = []

    async def opener(uri: str, namespace: str = unique, **options: Any) -> PostgreSQLStateStore:
        store = await PostgreSQLStateStore.open(uri, namespace, **options)
        stores.append(store)
        return store

    yield opener
    for store in stores:
        await store.aclose()
