"""The adapter: publishing, and what consumers of one process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.message_queues.base import Capabilities, DeliveryMode
from llamadeploy.message_queues.config import RabbitMQMessageQueueConfig
from llamadeploy.message_queues.rabbitmq import link as links
from llamadeploy.message_queues.rabbitmq.census import Census
from llamadeploy.message_queues.rabbitmq.consumer import C, RabbitMQConsumer, RabbitMQDelivery
from llamadeploy.message_queues.rabbitmq.dead_letters import RabbitMQDeadDelivery
from llamadeploy.message_queues.rabbitmq.directory import Directory
from llamadeploy.message_queues.rabbitmq.driver import CAUGHT, Channel, DeliveredMessage, translate
from llamadeploy.message_queues.rabbitmq.link import Link
from llamadeploy.message_queues.rabbitmq.publisher import Publisher
from llamadeploy.message_queues.rabbitmq.topics import Topics
from llamadeploy.message_queues.rabbitmq.topology import (
    DEAD_LETTERS,
    Topology,
    check_exchange,
    check_topic,
)
from llamadeploy.message_queues.simple import wire
from llamadeploy.messages import QueueMessage

CAPABILITIES = Capabilities(DeliveryMode.COMPETING, ordered=True, durable=True)


class RabbitMQMessageQueue:
    """See the package. Connects when it is used first.

    Args:
        config: the settings, or its fields as keyword arguments (as in 0.8.1).

    Raises:
        ConfigurationError: a setting is wrong.
        MissingExtraError: aio-pika is not installed.
    """

    def __init__(self, config: RabbitMQMessageQueueConfig | None = None, **options: Any) -> None:
        if config is not None and options:
            raise ConfigurationError("give RabbitMQMessageQueue a config or its fields, not both")
        self._config = config if config is not None else RabbitMQMessageQueueConfig(**options)
        self._topology = Topology(check_exchange(self._config.exchange_name))
        self._publishing = Link(self._config.url, "publish")
        self._consuming = Link(self._config.url, "consume")
        self._census = Census(self._consuming, self._publishing, self._topology)
        directory = Directory(self._publishing, self._topology.exchange)
        self._topics = Topics(self._consuming, self._topology, directory, self._census)
        self._publisher = Publisher(self._publishing, self._topology, self._topics)
        self._consumers: set[RabbitMQConsumer[Any]] = set()

    def as_config(self) -> RabbitMQMessageQueueConfig:
        """The configuration it was made with."""
        return self._config

    @property
    def capabilities(self) -> Capabilities:
        """Competing consumers, durable."""
        return CAPABILITIES

    async def publish(self, topic: str, message: QueueMessage) -> None:
        """See ``base.MessageQueue``."""
        check_topic(topic)
        await self._publisher.publish(topic, wire.encode_message(message))

    def consume(
        self, topic: str, *, group: str, prefetch: int = 1, ephemeral: bool = False
    ) -> RabbitMQConsumer[RabbitMQDelivery]:
        """See ``base.MessageQueue``; there is one group per topic."""
        return self._consume(topic, RabbitMQDelivery, prefetch=prefetch, ephemeral=ephemeral)

    def dead_letters(
        self, topic: str, *, prefetch: int = 1
    ) -> RabbitMQConsumer[RabbitMQDeadDelivery]:
        """See ``base.KeepsDeadLetters``."""
        return self._consume(topic + DEAD_LETTERS, RabbitMQDeadDelivery, prefetch=prefetch)

    def _consume(
        self,
        topic: str,
        claim: Callable[[RabbitMQConsumer[Any], Channel, DeliveredMessage], C],
        *,
        prefetch: int,
        ephemeral: bool = False,
    ) -> RabbitMQConsumer[C]:
        if not 1 <= prefetch <= 65_535:
            raise ConfigurationError(f"prefetch is {prefetch}: it must be 1 or more (to 65535)")
        check_topic(topic.removesuffix(DEAD_LETTERS))
        consumer = RabbitMQConsumer(
            self._consuming,
            self._topology,
            self._topics,
            self._census,
            topic,
            prefetch=prefetch,
            ephemeral=ephemeral,
            claim=claim,
            left=self._consumers.discard,
        )
        self._consumers.add(consumer)
        return consumer

    async def depth(self, topic: str) -> int:
        """See ``base.MessageQueue``."""
        return sum(await self._census.count(topic))

    async def ready(self, topic: str) -> int:
        """See ``base.MessageQueue``."""
        return (await self._census.ready(topic))[0]

    async def delete_topic(self, topic: str) -> None:
        """See ``base.MessageQueue``; its dead letters go with it."""
        check_topic(topic)
        await self._topics.remove(topic)

    async def purge(self, namespace: str) -> int:
        """See ``base.MessageQueue``; dead letters go with their topics."""
        return await self._topics.purge(namespace)

    async def ping(self) -> None:
        """See ``base.MessageQueue``."""
        channel = await self._publishing.channel()
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                await channel.close()
        except CAUGHT as error:
            raise translate(self._publishing.name, error) from error

    async def aclose(self) -> None:
        """See ``base.MessageQueue``."""
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        await asyncio.gather(self._publishing.aclose(), self._consuming.aclose())
