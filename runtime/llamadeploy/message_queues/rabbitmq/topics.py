"""Making, reviving and removing topics on the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from llamadeploy.message_queues.rabbitmq import link as links
from llamadeploy.message_queues.rabbitmq.directory import Directory
from llamadeploy.message_queues.rabbitmq.driver import CAUGHT, Channel, exceptions, translate
from llamadeploy.message_queues.rabbitmq.link import Link
from llamadeploy.message_queues.rabbitmq.topology import DEAD_LETTERS, Topology, queue_name
from llamadeploy.messages import topics_of

log = logging.getLogger(__name__)

DEAD_SECONDS = 30.0
"""A queue that answers nobody for this long, while its server does, is taken for dead. The members
of a queue elect a leader within seconds where there is a majority of them."""

PROBE_SECONDS = 5.0
"""How long a queue that may be dead has for a last answer."""

T = TypeVar("T")


class Announcer(Protocol):
    """Tells the consumers of topics that the queues were deleted: of one that is made again at once
    RabbitMQ 3.10 carries consumers over without telling them, and then delivers to nobody."""

    async def announce(self, topics: list[str]) -> None: ...


class Topics:
    """What is done to topics as a whole; each operation has a channel of its own.

    Args:
        link: the connection of consumers, which a server short of memory does not stop.
        directory: over the connection of publishers.
    """

    def __init__(
        self, link: Link, topology: Topology, directory: Directory, announcer: Announcer
    ) -> None:
        self._link = link
        self._topology = topology
        self._directory = directory
        self._announcer = announcer
        self._making: dict[str, asyncio.Task[None]] = {}
        self._silent: dict[str, float] = {}

    async def make(self, topic: str) -> None:
        """Return when the topic is there for good, and written down; callers at one time share
        one making.

        Raises:
            QueueUnavailableError: it is not, now.
            QueueError: the server refuses; something else may have its name.
        """
        running = self._making.get(topic)
        if running is None:
            running = self._making[topic] = asyncio.create_task(self._make(topic))
            running.add_done_callback(lambda task: self._made(topic, task))
        await asyncio.shield(running)

    def _made(self, topic: str, making: asyncio.Task[None]) -> None:
        del self._making[topic]
        if not making.cancelled():
            making.exception()  # who waits has it too

    async def _make(self, topic: str) -> None:
        declare = partial(self._topology.declare_topic, topic=topic)
        if await self._exists(topic):
            await self._do(declare)
        else:
            await self._directory.enter(topic.removesuffix(DEAD_LETTERS))
            await self._do(declare)
            await self._do(self._topology.seal)

    def answers(self, topic: str) -> None:
        """Its queue does what it is asked."""
        if self._silent:
            self._silent.pop(topic, None)

    async def silent(self, topic: str) -> None:
        """Its queue does not answer, though the server does: made anew when that lasts.

        What is in it is lost then, as it would be for ever: the state store publishes again what
        was not started. Raises as :meth:`make`.
        """
        now = asyncio.get_running_loop().time()
        if now - self._silent.setdefault(topic, now) < DEAD_SECONDS:
            return
        del self._silent[topic]
        if await self._answers_probe(topic):
            return
        log.error(
            "the queue of topic %s has no leader: it is made anew, what was in it is lost", topic
        )
        await self._do(lambda channel: channel.queue_delete(queue_name(topic)))
        await self.make(topic)
        await self._announcer.announce([topic])

    async def _answers_probe(self, topic: str) -> bool:
        """Another process may have revived it; then deleting it again would lose messages."""

        async def probe(channel: Channel) -> bool:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    found = await channel.basic_get(queue_name(topic))
            except TimeoutError:
                return False
            if found.delivery_tag is not None:
                await channel.basic_nack(found.delivery_tag, wait=False)
            return True

        try:
            return await self._do(probe, close=False)
        except TopicMissing:
            return False

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
        await self._announcer.announce(topics)

    async def _exists(self, topic: str) -> bool:
        async def look(channel: Channel) -> None:
            await channel.queue_declare(queue_name(topic), passive=True)

        try:
            await self._do(look)
        except TopicMissing:
            return False
        return True

    async def _do(self, operation: Callable[[Channel], Awaitable[T]], *, close: bool = True) -> T:
        channel = await self._link.channel()
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                result = await operation(channel)
                if close:
                    await channel.close()
                return result
        except exceptions.ChannelNotFoundEntity as error:
            raise TopicMissing from error
        except CAUGHT as error:
            raise translate(self._link.name, error) from error


class TopicMissing(Exception):
    """There is no such queue."""
