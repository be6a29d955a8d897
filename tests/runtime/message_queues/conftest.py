from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.simple.broker import Broker, Limits
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer

SILENCE = 0.6
"""Seconds until the test broker takes a consumer for dead; clients beat ten times as often."""

TEST_LIMITS = Limits(topic_messages=500, total_bytes=2**20, topics=50)


@pytest.fixture
async def server() -> AsyncIterator[SimpleMessageQueueServer]:
    broker = Broker(silence=SILENCE, limits=TEST_LIMITS)
    server = SimpleMessageQueueServer(SimpleMessageQueueConfig(port=0), broker)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Wait for a condition that nothing announces; a time-out is the test's failure."""

    async def wait(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.005)

    return wait
