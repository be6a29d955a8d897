"""The adapter of the simple queue over HTTP."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from llamadeploy.exceptions import ConfigurationError, QueueError, QueueUnavailableError
from llamadeploy.message_queues.base import Capabilities, DeliveryMode
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.simple import wire
from llamadeploy.message_queues.simple.batching import Batcher
from llamadeploy.message_queues.simple.broker import HEARTBEAT_SECONDS
from llamadeploy.message_queues.simple.connection import Connection, topic_path
from llamadeploy.message_queues.simple.consumer import HttpConsumer
from llamadeploy.messages import QueueMessage

log = logging.getLogger(__name__)

SIMPLE_CAPABILITIES = Capabilities(DeliveryMode.COMPETING, ordered=False, durable=False)

_OUTCOMES = msgspec.json.Decoder(list[wire.Refusal | None])
_DEPTH = msgspec.json.Decoder(wire.DepthReply)
_COUNT = msgspec.json.Decoder(int)
_HEARTBEAT = msgspec.json.Decoder(wire.HeartbeatReply)


class SimpleMessageQueue:
    """Client of a :class:`SimpleMessageQueueServer`.

    Args:
        config: where the server is; read from ``SIMPLE_MESSAGE_QUEUE_*`` when not given.
        token: the server's token, where it has one.
        heartbeat: seconds between two signs of life of the consumers.
        options: fields of the configuration, instead of ``config``.
    """

    def __init__(
        self,
        config: SimpleMessageQueueConfig | None = None,
        *,
        token: str | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        **options: Any,
    ) -> None:
        if config is not None and options:
            raise ConfigurationError("give SimpleMessageQueue a config or its fields, not both")
        self._config = config or SimpleMessageQueueConfig(**options)
        self._connection = Connection(self._config, token)
        self._heartbeat = heartbeat
        self._consumers: dict[str, HttpConsumer] = {}
        self._beating: asyncio.Task[None] | None = None
        self._publications: Batcher[wire.Publication] = Batcher(self._send_publications)

    def as_config(self) -> SimpleMessageQueueConfig:
        """The configuration it was made with."""
        return self._config

    @property
    def capabilities(self) -> Capabilities:
        """Competing consumers, in memory."""
        return SIMPLE_CAPABILITIES

    async def publish(self, topic: str, message: QueueMessage) -> None:
        """See ``base.MessageQueue``."""
        topic_path(topic)
        body = msgspec.Raw(wire.encode_message(message))
        await self._publications.submit(wire.Publication(topic, body))

    def consume(
        self, topic: str, *, group: str, prefetch: int = 1, ephemeral: bool = False
    ) -> HttpConsumer:
        """See ``base.MessageQueue``; there is one group per topic."""
        if prefetch < 1:
            raise ConfigurationError(f"prefetch is {prefetch}: it must be 1 or more")
        consumer = _TrackedConsumer(self, topic, prefetch=prefetch, ephemeral=ephemeral)
        return consumer

    async def depth(self, topic: str) -> int:
        """See ``base.MessageQueue``."""
        path = f"messages/{topic_path(topic)}/depth"
        return (await self._connection.call(_DEPTH, "GET", path)).depth

    async def ready(self, topic: str) -> int:
        """See ``base.MessageQueue``."""
        path = f"messages/{topic_path(topic)}/depth"
        return (await self._connection.call(_DEPTH, "GET", path)).ready

    async def delete_topic(self, topic: str) -> None:
        """See ``base.MessageQueue``."""
        await self._connection.request("DELETE", f"topics/{topic_path(topic)}")

    async def purge(self, namespace: str) -> int:
        """See ``base.MessageQueue``."""
        path = f"namespaces/{topic_path(namespace)}"
        return await self._connection.call(_COUNT, "DELETE", path)

    async def ping(self) -> None:
        """See ``base.MessageQueue``."""
        await self._connection.request("GET", "")

    async def aclose(self) -> None:
        """See ``base.MessageQueue``."""
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers.values())))
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
        await self._publications.drain()
        await self._connection.aclose()

    @property
    def connection(self) -> Connection:
        """The connections, for the consumers."""
        return self._connection

    def attach(self, consumer: HttpConsumer) -> None:
        """Begin to send signs of life of a consumer."""
        self._consumers[consumer.id] = consumer
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat(), name="queue heartbeat")

    def detach(self, consumer: HttpConsumer) -> None:
        """Stop sending signs of life of a consumer."""
        self._consumers.pop(consumer.id, None)

    async def _beat(self) -> None:
        while self._consumers:
            await asyncio.sleep(self._heartbeat)
            try:
                await self._beat_once()
            except QueueUnavailableError as error:
                log.debug("heartbeat: %s", error)  # the consumers' own requests say so too
            except QueueError as error:
                log.error("heartbeat refused: %s", error)

    async def _beat_once(self) -> None:
        request = wire.HeartbeatRequest(list(self._consumers))
        if not request.consumers:
            return
        reply = await self._connection.call(_HEARTBEAT, "POST", "heartbeat", request)
        for consumer in list(self._consumers.values()):
            await consumer.repair(consumer.id in reply.lost)

    async def _send_publications(self, items: list[wire.Publication]) -> list[QueueError | None]:
        outcomes = await self._connection.call(_OUTCOMES, "POST", "messages", items)
        return [_refusal(outcome) for outcome in outcomes]


class _TrackedConsumer(HttpConsumer):
    """A consumer that the queue sends signs of life of, from entering to leaving its context."""

    def __init__(
        self, queue: SimpleMessageQueue, topic: str, *, prefetch: int, ephemeral: bool
    ) -> None:
        super().__init__(queue.connection, topic, prefetch=prefetch, ephemeral=ephemeral)
        self._queue = queue

    async def __aenter__(self) -> _TrackedConsumer:
        self._queue.attach(self)
        await super().__aenter__()
        return self

    async def close(self) -> None:
        self._queue.detach(self)
        await super().close()


def _refusal(outcome: wire.Refusal | None) -> QueueError | None:
    if outcome is None:
        return None
    if outcome.status >= 500:
        return QueueUnavailableError(outcome.detail)
    return QueueError(outcome.detail)
