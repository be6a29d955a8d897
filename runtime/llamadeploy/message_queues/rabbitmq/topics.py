"""Making and removing topics on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from llamadeploy.message_queues.rabbitmq import link as links
from llamadeploy.message_queues.rabbitmq.directory import Directory
from llamadeploy.message_queues.rabbitmq.driver import CAUGHT, Channel, exceptions, translate
from llamadeploy.message_queues.rabbitmq.link import Link
from llamadeploy.message_queues.rabbitmq.topology import DEAD_LETTERS, Topology, queue_name
from llamadeploy.messages import topics_of

T = TypeVar("T")


class Topics:
    """What is done to topics as a whole; each operation has a channel of its own.

    Args:
        directory: over a publisher's connection, whatever ``link`` is.
    """

    def __init__(self, link: Link, topology: Topology, directory: Directory) -> None:
        self._link = link
        self._topology = topology
        self._directory = directory

    async def make(self, topic: str) -> None:
        """Return when the topic is there, and written down.

        Raises:
            QueueUnavailableError: it is not, now.
            QueueError: the server refuses; something else may have its name.
        """
        if not await self._exists(topic):
            await self._directory.enter(topic.removesuffix(DEAD_LETTERS))
        await self._do(partial(self._topology.declare_topic, topic=topic))

    async def remove(self, topic: str) -> None:
        """Forget the topic and its dead letters. Idempotent. Raises as :meth:`make`."""
        if await self._exists(topic):
            await self._directory.remove(lambda _: [topic], self._delete)

    async def purge(self, namespace: str) -> int:
        """See ``base.MessageQueue``."""
        found: list[str] = []

        def choose(topics: set[str]) -> list[str]:
            return topics_of(namespace, topics)

        async def delete(topics: list[str]) -> None:
            found.extend([topic for topic in topics if await self._exists(topic)])
            await self._delete(topics)

        await self._directory.remove(choose, delete)
        return len(found)

    async def _delete(self, topics: list[str]) -> None:
        async def delete(channel: Channel) -> None:
            for topic in topics:
                await channel.queue_delete(queue_name(topic))
                await channel.queue_delete(queue_name(topic + DEAD_LETTERS))

        await self._do(delete)

    async def _exists(self, topic: str) -> bool:
        async def look(channel: Channel) -> None:
            await channel.queue_declare(queue_name(topic), passive=True)

        try:
            await self._do(look)
        except TopicMissing:
            return False
        return True

    async def _do(self, operation: Callable[[Channel], Awaitable[T]]) -> T:
        channel = await self._link.channel()
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                result = await operation(channel)
                await channel.close()
                return result
        except exceptions.ChannelNotFoundEntity as error:
            raise TopicMissing from error
        except CAUGHT as error:
            raise translate(self._link.name, error) from error


class TopicMissing(Exception):
    """There is no such queue."""
