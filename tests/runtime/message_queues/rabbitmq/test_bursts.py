"""What comes together is sent together, and nothing but what is done is acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from llamadeploy.message_queues.rabbitmq.joined_writes import JoinedWriter


@pytest.mark.rule(10)
async def test_only_what_is_done_is_acknowledged(
    rabbitmq_server: Any,
    unique: str,
    open_queue: Callable[..., Any],
    message: Callable[..., Any],
    receive: Callable[..., Any],
) -> None:
    """In any order, in one turn of the loop or in several; what is kept comes again."""
    queue = open_queue(rabbitmq_server.url())
    topic = f"{unique}.echo"
    kept = {"m7", "m8", "m23", "m39"}
    async with queue.consume(topic, group="g", prefetch=64) as consumer:
        await asyncio.gather(*(queue.publish(topic, message(f"m{n}")) for n in range(40)))
        deliveries = await receive(consumer, 40)
        done = [each for each in deliveries if each.message.id_ not in kept]
        random.shuffle(done)
        await asyncio.gather(*(each.ack() for each in done[:20]))
        for each in done[20:]:
            await each.ack()
            await each.ack()  # idempotent
        assert consumer.held == len(kept)
    async with queue.consume(topic, group="g", prefetch=64) as consumer:
        again = await receive(consumer, len(kept))
        assert {each.message.id_ for each in again} == kept
        await asyncio.gather(*(each.ack() for each in again))
    assert await queue.depth(topic) == 0


class _Counting:
    """A stream writer that counts what is given to it."""

    def __init__(self, inner: asyncio.StreamWriter) -> None:
        self._inner = inner
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._inner.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_writes_of_one_turn_are_one_and_keep_their_order() -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read(-1))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, plain = await asyncio.open_connection("127.0.0.1", port)
        counting = _Counting(plain)
        writer = JoinedWriter(counting)  # type: ignore[arg-type]
        for data in (b"a", b"b", b"c"):
            writer.write(data)
        assert counting.writes == []
        await asyncio.sleep(0)
        assert counting.writes == [b"abc"]
        writer.write(b"d")
        await writer.drain()
        assert counting.writes[1:] == [b"d"]
        writer.write(b"e")
        writer.write(b"f")
        writer.close()
        assert await asyncio.wait_for(received, 5) == b"abcdef"
        await writer.wait_closed()
