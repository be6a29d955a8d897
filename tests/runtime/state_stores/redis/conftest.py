from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from llamadeploy.state_stores.redis.store import RedisStateStore


@pytest.fixture
async def open_redis(unique: str) -> AsyncIterator[Callable[..., Any]]:
    """Opens stores of one namespace, as several processes would."""
    async with AsyncExitStack() as stack:

        async def opener(uri: str, **options: Any) -> RedisStateStore:
            store = await RedisStateStore.open(uri, unique, **{"timeout": 0.5, **options})
            stack.push_async_callback(store.aclose)
            return store

        yield opener


@pytest.fixture
def admin(unique: str) -> Callable[..., Any]:
    """A command, on a connection of its own."""

    async def command(uri: str, *words: Any) -> Any:
        from redis.asyncio import Redis

        async with Redis.from_url(uri) as client:
            return await client.execute_command(*words)

    return command
