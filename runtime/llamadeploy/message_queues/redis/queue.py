"""The adapter: publishing, and what consumers of one process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from llamadeploy.exceptions import ConfigurationError, QueueError, QueueUnavailableError
from llamadeploy.message_queues.base import Capabilities, DeliveryMode
from llamadeploy.message_queues.config import RedisMessageQueueConfig
from llamadeploy.message_queues.redis.consumer import (
    C,
    RedisConsumer,
    RedisDeadDelivery,
    RedisDelivery,
)
from llamadeploy.message_queues.redis.purge import purge
from llamadeploy.message_queues.redis.topic import call_topic, dead_prefix, topic_prefix
from llamadeploy.message_queues.simple import wire
from llamadeploy.messages import QueueMessage
from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_pipe import ANSWER_SECONDS, RedisAway, RedisPipe, RedisRefused

SILENCE_SECONDS = 6.0
"""A consumer that gives no sign of life for this long loses what it holds; it gives three."""


class RedisMessageQueue:
    """See the package. Connects when it is used first.

    Args:
        config: the settings, or its fields as keyword arguments (as in 0.8.1).
        silence: seconds, see :data:`SILENCE_SECONDS`; the same for all consumers of a topic.
        timeout: seconds a server may owe an answer before it is taken for away.

    Raises:
        ConfigurationError: a setting is wrong.
        MissingExtraError: redis-py is not installed.
    """

    def __init__(
        self,
        config: RedisMessageQueueConfig | None = None,
        *,
        silence: float = SILENCE_SECONDS,
        timeout: float = ANSWER_SECONDS,
        **options: Any,
    ) -> None:
        self._config = config if config is not None else RedisMessageQueueConfig(**options)
        self._address = RedisAddress(self._config.url, "message queue")
        self._silence = silence
        self._timeout = timeout
        self._broadcast = not self._config.exclusive_mode
        self._pipes: dict[str, RedisPipe] = {}
        self._consumers: set[RedisConsumer[Any]] = set()
        self._closed = False

    def as_config(self) -> RedisMessageQueueConfig:
        """The configuration it was made with."""
        return self._config

    @property
    def capabilities(self) -> Capabilities:
        """Without ``exclusive_mode`` every consumer gets every message, and a backlog is not
        promised."""
        if self._broadcast:
            return Capabilities(DeliveryMode.BROADCAST, ordered=True, durable=False)
        return Capabilities(DeliveryMode.COMPETING, ordered=True, durable=True)

    async def publish(self, topic: str, message: QueueMessage) -> None:
        """See ``base.MessageQueue``."""
        prefix = topic_prefix(topic)
        body = wire.encode_message(message)
        await call_topic(self._pipe(prefix), prefix, "publish", body=body)

    def consume(
        self, topic: str, *, group: str, prefetch: int = 1, ephemeral: bool = False
    ) -> RedisConsumer[RedisDelivery]:
        """See ``base.MessageQueue``; the group of a topic is one, or of a broadcast the
        consumer's own, whatever it is called."""
        return self._consume(
            topic,
            topic_prefix(topic),
            RedisDelivery,
            prefetch=prefetch,
            ephemeral=ephemeral,
            broadcast=self._broadcast and not ephemeral,
        )

    def dead_letters(self, topic: str, *, prefetch: int = 1) -> RedisConsumer[RedisDeadDelivery]:
        """See ``base.KeepsDeadLetters``; each goes to one consumer, also where messages go to
        all."""
        return self._consume(topic, dead_prefix(topic), RedisDeadDelivery, prefetch=prefetch)

    def _consume(
        self,
        topic: str,
        prefix: str,
        claim: Callable[[RedisConsumer[Any], str, list[bytes]], C],
        *,
        prefetch: int,
        ephemeral: bool = False,
        broadcast: bool = False,
    ) -> RedisConsumer[C]:
        if prefetch < 1:
            raise ConfigurationError(f"prefetch is {prefetch}: it must be 1 or more")
        return RedisConsumer(
            self._pipe(topic_prefix(topic)),
            self._address,
            topic,
            prefix,
            claim=claim,
            prefetch=prefetch,
            ephemeral=ephemeral,
            broadcast=broadcast,
            silence=self._silence,
            timeout=self._timeout,
            register=self._consumers,
        )

    async def depth(self, topic: str) -> int:
        """See ``base.MessageQueue``; of a broadcast, what its slowest consumer has left."""
        return (await self._depths(topic))[0]

    async def ready(self, topic: str) -> int:
        """See ``base.MessageQueue``."""
        return (await self._depths(topic))[1]

    async def _depths(self, topic: str) -> tuple[int, int]:
        prefix = topic_prefix(topic)
        request = {"broadcast": self._broadcast}
        depth, ready = await call_topic(self._pipe(prefix), prefix, "depth", request)
        return int(depth), int(ready)

    async def delete_topic(self, topic: str) -> None:
        """See ``base.MessageQueue``."""
        prefix = topic_prefix(topic)
        await call_topic(self._pipe(prefix), prefix, "delete")

    async def purge(self, namespace: str) -> int:
        """See ``base.MessageQueue``; it looks at all keys of the database, in small steps."""
        return await purge(self._address, namespace, self._timeout)

    async def ping(self) -> None:
        """See ``base.MessageQueue``."""
        try:
            await self._pipe("llamadeploy:queue:{ping}:").ask("PING")
        except RedisAway as error:
            raise QueueUnavailableError(f"message queue: {error}") from error
        except RedisRefused as error:
            raise QueueError(f"message queue: {error}") from error

    async def aclose(self) -> None:
        """See ``base.MessageQueue``."""
        self._closed = True
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        await asyncio.gather(*(pipe.aclose() for pipe in self._pipes.values()))

    def _pipe(self, prefix: str) -> RedisPipe:
        """One for all, but in a Cluster one per topic: topics are on different nodes."""
        if self._closed:
            raise QueueUnavailableError("message queue: it was closed")
        name = prefix if self._address.cluster else ""
        if name not in self._pipes:
            self._pipes[name] = RedisPipe(self._address, prefix, timeout=self._timeout)
        return self._pipes[name]
