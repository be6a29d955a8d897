"""The adapter of the simple queue inside the process that holds the broker."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.message_queues.base import Capabilities, DeliveryMode
from llamadeploy.message_queues.simple import wire
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.topic import Lease
from llamadeploy.messages import QueueMessage


class LocalMessageQueue:
    """Publishes to and consumes from a broker without a network between.

    Args:
        broker: shared with the HTTP server where there is one; it stays open on ``aclose``.
    """

    def __init__(self, broker: Broker | None = None) -> None:
        self.broker = broker or Broker()
        self._consumers: set[LocalConsumer] = set()

    @property
    def capabilities(self) -> Capabilities:
        """Competing consumers, in memory."""
        return Capabilities(DeliveryMode.COMPETING, ordered=False, durable=False)

    async def publish(self, topic: str, message: QueueMessage) -> None:
        """See ``base.MessageQueue``."""
        self.broker.publish(topic, message.id_, wire.encode_message(message))

    def consume(
        self, topic: str, *, group: str, prefetch: int = 1, ephemeral: bool = False
    ) -> LocalConsumer:
        """See ``base.MessageQueue``; there is one group per topic."""
        if prefetch < 1:
            raise ConfigurationError(f"prefetch is {prefetch}: it must be 1 or more")
        return LocalConsumer(self, topic, prefetch, ephemeral)

    async def depth(self, topic: str) -> int:
        """See ``base.MessageQueue``."""
        return self.broker.depth(topic)

    async def ready(self, topic: str) -> int:
        """See ``base.MessageQueue``."""
        return self.broker.ready(topic)

    async def delete_topic(self, topic: str) -> None:
        """See ``base.MessageQueue``."""
        self.broker.delete_topic(topic)

    async def purge(self, namespace: str) -> int:
        """See ``base.MessageQueue``."""
        return self.broker.purge(namespace)

    async def ping(self) -> None:
        """See ``base.MessageQueue``."""
        self.broker.check()

    async def aclose(self) -> None:
        """See ``base.MessageQueue``."""
        for consumer in list(self._consumers):
            consumer.close()

    def attach(self, consumer: LocalConsumer) -> None:
        """Remember a consumer, to close it with the queue."""
        self._consumers.add(consumer)

    def detach(self, consumer: LocalConsumer) -> None:
        """Forget a consumer."""
        self._consumers.discard(consumer)


class LocalDelivery:
    """A message leased within the process."""

    __slots__ = ("_consumer", "_lease", "message")

    def __init__(self, consumer: LocalConsumer, lease: Lease) -> None:
        self._consumer = consumer
        self._lease = lease
        self.message = wire.decode_message(lease.body)

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self._lease.topic.name

    async def ack(self) -> None:
        """Done with it. See ``base.Delivery``."""
        self._consumer.settle(self._lease.tag, done=True)

    async def nack(self) -> None:
        """Hand it back. See ``base.Delivery``."""
        self._consumer.settle(self._lease.tag, done=False)


class LocalConsumer:
    """Holds at most ``prefetch`` messages; needs no heartbeat, as it lives with the broker."""

    def __init__(
        self, queue: LocalMessageQueue, topic: str, prefetch: int, ephemeral: bool
    ) -> None:
        self.id = f"local-{uuid.uuid4().hex}"
        self._queue = queue
        self._broker = queue.broker
        self._topic = topic
        self._prefetch = prefetch
        self._ephemeral = ephemeral
        self._held: set[int] = set()
        self._buffer: deque[Lease] = deque()
        self._room = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._queue.attach(self)
        self._broker.open_consumer(self.id)
        # From here on the topic exists and, where it is ephemeral, is ours.
        self._add(await self._lease(wait=0.0))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[LocalDelivery]:
        return self

    async def __anext__(self) -> LocalDelivery:
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            if len(self._held) >= self._prefetch:
                self._room.clear()
                await self._room.wait()
            else:
                self._add(await self._lease(wait=None))
        return LocalDelivery(self, self._buffer.popleft())

    async def resize(self, prefetch: int) -> None:
        """See ``base.Consumer``."""
        self._prefetch = prefetch
        self._room.set()

    def close(self) -> None:
        """Hand back what was not acknowledged. Idempotent."""
        if not self._closed:
            self._closed = True
            self._room.set()
            self._buffer.clear()
            self._queue.detach(self)
            self._broker.close_consumer(self.id)

    def settle(self, tag: int, *, done: bool) -> None:
        """Acknowledge or hand back one message; a no-op where it is not held any more."""
        if done:
            self._broker.ack(self.id, [tag])
        else:
            self._broker.nack(self.id, [tag])
        self._held.discard(tag)
        self._room.set()

    async def _lease(self, wait: float | None) -> list[Lease]:
        return await self._broker.lease(
            self._topic,
            self.id,
            limit=self._prefetch - len(self._held),
            wait=wait,
            ephemeral=self._ephemeral,
        )

    def _add(self, leases: list[Lease]) -> None:
        if self._closed:
            return  # closing handed them back
        self._held.update(lease.tag for lease in leases)
        self._buffer.extend(leases)
