"""Publishing: many at a time on one channel, each waits for its own confirm."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.message_queues.rabbitmq import link as links
from llamadeploy.message_queues.rabbitmq.driver import CAUGHT, Channel, exceptions, spec, translate
from llamadeploy.message_queues.rabbitmq.link import Link
from llamadeploy.message_queues.rabbitmq.topics import Topics
from llamadeploy.message_queues.rabbitmq.topology import Topology
from llamadeploy.messages import is_inbox_topic

log = logging.getLogger(__name__)

PUBLISHED_AT = "published"
"""Header: nanoseconds since the epoch. What is handed back together goes back in this order."""

ATTEMPTS = 3
"""The first may meet a connection that is dead already, the second a topic that is not there."""


class Publisher:
    """Has a connection of its own: a server short of memory or disk stops publishers' ones."""

    def __init__(self, link: Link, topology: Topology, topics: Topics) -> None:
        self._link = link
        self._topology = topology
        self._topics = topics
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._numbers = itertools.count()

    async def publish(self, topic: str, body: bytes) -> None:
        """Return when the server has confirmed; a nudge to an inbox that is gone is dropped.

        Raises:
            QueueUnavailableError: not confirmed; it may or may not be there.
        """
        for attempt in range(ATTEMPTS):
            channel = await self._opened()
            try:
                async with asyncio.timeout(links.ANSWER_SECONDS):
                    await self._send(channel, topic, body)
                self._topics.answers(topic)
                return
            except exceptions.PublishError:
                if is_inbox_topic(topic):
                    return
                await self._topics.make(topic)
            except exceptions.DeliveryError as error:  # the server's nack
                raise QueueUnavailableError(
                    f"message queue {self._link.name}: topic {topic} did not take the message"
                ) from error
            except TimeoutError as error:
                # One queue without an answer must not end the publishing to all others.
                if await self._link.answers():
                    await self._topics.silent(topic)
                else:
                    self._link.drop()
                raise translate(self._link.name, error) from error
            except CAUGHT as error:
                if attempt == ATTEMPTS - 1:
                    raise translate(self._link.name, error) from error
        raise QueueUnavailableError(
            f"message queue {self._link.name}: topic {topic} is deleted as often as it is made"
        )

    async def _send(self, channel: Channel, topic: str, body: bytes) -> None:
        await channel.basic_publish(
            body,
            exchange=self._topology.exchange,
            routing_key=topic,
            mandatory=True,
            wait=False,  # for the confirm we wait, not for the socket
            properties=spec.Basic.Properties(
                delivery_mode=2,
                content_type="application/json",
                # By it the client finds what the server returns; its own would be a random one.
                message_id=str(next(self._numbers)),
                headers={PUBLISHED_AT: time.time_ns()},
            ),
        )

    async def _opened(self) -> Channel:
        channel = self._channel
        if channel is not None and not channel.is_closed:
            return channel
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._new_channel()
            return self._channel

    async def _new_channel(self) -> Channel:
        channel = await self._link.channel(confirms=True)
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                # A publish to an exchange that is not there closes the channel for all.
                await channel.exchange_declare(self._topology.exchange, durable=True)
        except CAUGHT as error:
            raise translate(self._link.name, error) from error
        return channel
