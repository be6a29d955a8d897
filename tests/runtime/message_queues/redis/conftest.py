from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.message_queues.base import Consumer, Delivery
from llamadeploy.message_queues.redis.queue import RedisMessageQueue

SILENCE = 0.6
"""Seconds until a test's consumer is taken for dead."""


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., RedisMessageQueue]]:
    """Makes clients of a server, competing ones by default."""
    async with AsyncExitStack() as stack:

        def make(uri: str, *, exclusive_mode: bool = True, **options: Any) -> RedisMessageQueue:
            options = {"silence": SILENCE, "timeout": 0.5, **options}
            queue = RedisMessageQueue(url=uri, exclusive_mode=exclusive_mode, **options)
            stack.push_async_callback(queue.aclose)
            return queue

        yield make


@pytest.fixture
def receive() -> Callable[..., Any]:
    """The next deliveries; a time-out is the test's failure."""

    async def next_ones(consumer: Consumer, count: int, seconds: float = 10.0) -> list[Delivery]:
        found: list[Delivery] = []
        iterator = aiter(consumer)
        async with asyncio.timeout(seconds):
            while len(found) < count:
                found.append(await anext(iterator))
        return found

    return next_ones


class ConsumerProcess:
    """``consumer.py`` as a process of its own; talks over its standard streams."""

    def __init__(self, uri: str, topic: str, prefetch: int, exclusive_mode: bool) -> None:
        script = Path(__file__).with_name("consumer.py")
        self.process = subprocess.Popen(
            [
                sys.executable, str(script), uri, topic, str(prefetch), str(SILENCE),
                str(exclusive_mode),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    async def line(self) -> str:
        """The next line it writes."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    def say(self, line: str) -> None:
        """Write a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


@pytest.fixture
def consumer_process() -> Iterator[Callable[..., ConsumerProcess]]:
    started: list[ConsumerProcess] = []

    def start(uri: str, topic: str, prefetch: int, exclusive_mode: bool = True) -> ConsumerProcess:
        started.append(ConsumerProcess(uri, topic, prefetch, exclusive_mode))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()
