"""Which topics there are: AMQP tells of a queue whose name one knows, and lists none.

A topic's name is put into the queue of the directory before its own queue is made, so that each
queue that exists is in it (a name may be in it twice, and one of a topic that is not there).
Whoever removes topics reads the whole directory: it consumes, publishes a mark behind all entries,
and has read them when the mark arrives. The queue has a single active consumer, so readers take
turns.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.message_queues.rabbitmq import link as links
from llamadeploy.message_queues.rabbitmq.driver import (
    CAUGHT,
    Channel,
    DeliveredMessage,
    spec,
    translate,
)
from llamadeploy.message_queues.rabbitmq.link import Link

_MARK = b"\0"
"""Begins a mark; no topic's name has it."""

DELIVERY_LIMIT = 1_000_000_000
"""Every reading counts as a delivery of the entries that stay."""


class Directory:
    """The topics of one exchange.

    Args:
        exchange: its name is part of the queue's.
    """

    def __init__(self, link: Link, exchange: str) -> None:
        self._link = link
        # No topic has this queue: in their names two digits follow a "+".
        self._queue = f"{exchange}+topics"

    async def enter(self, topic: str) -> None:
        """Write down a topic's name.

        Raises:
            QueueUnavailableError: it is not written down for sure.
        """
        channel = await self._link.channel(confirms=True)
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                await self._declare(channel)
                await self._publish(channel, topic.encode())
                await channel.close()
        except CAUGHT as error:
            raise translate(self._link.name, error) from error

    async def remove(
        self,
        choose: Callable[[set[str]], Iterable[str]],
        delete: Callable[[list[str]], Awaitable[None]],
    ) -> None:
        """Take entries out of the directory once ``delete`` has returned.

        Args:
            choose: of all topics, those to delete.

        Raises:
            QueueUnavailableError: not now, or others read it for too long.
        """
        channel = await self._link.channel(confirms=True)
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                entries = await self._read(channel)
        except CAUGHT as error:
            raise translate(self._link.name, error) from error
        chosen = list(choose({name for name in entries.values() if name is not None}))
        await delete(chosen)
        done = {None, *chosen}
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                for tag, name in entries.items():
                    if name in done:
                        await channel.basic_ack(tag, wait=False)
                await channel.close()  # the others go back
        except CAUGHT as error:
            raise translate(self._link.name, error) from error

    async def _declare(self, channel: Channel) -> None:
        await channel.queue_declare(
            self._queue,
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-single-active-consumer": True,
                "x-delivery-limit": DELIVERY_LIMIT,
            },
        )

    async def _publish(self, channel: Channel, body: bytes) -> None:
        await channel.basic_publish(
            body,
            routing_key=self._queue,
            mandatory=True,
            properties=spec.Basic.Properties(delivery_mode=2),
        )

    async def _read(self, channel: Channel) -> dict[int, str | None]:
        """The entries by their delivery tags; a mark is ``None``.

        A mark of another reader that waits for its turn goes with ours: that one runs out of time.
        """
        mark = _MARK + uuid.uuid4().bytes
        entries: dict[int, str | None] = {}
        read = asyncio.Event()

        async def take(message: DeliveredMessage) -> None:
            body = message.body
            entries[message.delivery_tag or 0] = None if body[:1] == _MARK else body.decode()
            if body == mark:
                read.set()

        await self._declare(channel)
        await channel.basic_consume(self._queue, take)
        await self._publish(channel, mark)
        closing = asyncio.ensure_future(read.wait())
        try:
            await asyncio.wait({closing, channel.closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
        if not read.is_set():
            raise QueueUnavailableError(f"message queue {self._link.name}: the channel was closed")
        return entries
