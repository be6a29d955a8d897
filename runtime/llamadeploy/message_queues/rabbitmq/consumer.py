"""Consuming: a channel per consumer, opened again whenever it is lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any, Self, TypeVar

from llamadeploy.exceptions import QueueError, QueueUnavailableError
from llamadeploy.message_queues.buffer import BufferedConsumer
from llamadeploy.message_queues.rabbitmq import link as links
from llamadeploy.message_queues.rabbitmq.census import Census
from llamadeploy.message_queues.rabbitmq.driver import CAUGHT, Channel, DeliveredMessage, translate
from llamadeploy.message_queues.rabbitmq.link import Backoff, Link
from llamadeploy.message_queues.rabbitmq.publisher import PUBLISHED_AT
from llamadeploy.message_queues.rabbitmq.topics import Topics
from llamadeploy.message_queues.rabbitmq.topology import Topology, queue_name
from llamadeploy.message_queues.simple import wire
from llamadeploy.messages import QueueMessage

log = logging.getLogger(__name__)

WATCH_SECONDS = 20.0
"""How often an idle consumer looks whether messages wait that it does not get; the second time it
subscribes again. RabbitMQ 3.10 can carry a subscription over to a queue that was deleted and made
anew, and then delivers to nobody."""


class Claim:
    """A message that a consumer holds while ``channel`` lives."""

    __slots__ = ("_consumer", "_settled", "channel", "published_at", "tag")

    def __init__(
        self, consumer: RabbitMQConsumer[Any], channel: Channel, delivered: DeliveredMessage
    ) -> None:
        self._consumer = consumer
        self._settled = False
        self.channel = channel
        self.tag = delivered.delivery_tag or 0
        published_at = headers_of(delivered).get(PUBLISHED_AT)
        self.published_at = published_at if isinstance(published_at, int) else 0

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self._consumer.topic

    async def ack(self) -> None:
        """Done with it. See ``base.Delivery``. AMQP confirms no acknowledgement: one that gets
        lost with its connection makes the message come again."""
        if not self._settled:
            self._settled = True
            await self._consumer.settle(self, back=False)

    async def nack(self) -> None:
        """Hand it back. See ``base.Delivery``."""
        if not self._settled:
            self._settled = True
            await self._consumer.settle(self, back=True)


class RabbitMQDelivery(Claim):
    """A message of a topic. Raises ValueError where it cannot be read."""

    __slots__ = ("message",)

    def __init__(
        self, consumer: RabbitMQConsumer[Any], channel: Channel, delivered: DeliveredMessage
    ) -> None:
        super().__init__(consumer, channel, delivered)
        self.message: QueueMessage = wire.decode_message(delivered.body)


C = TypeVar("C", bound=Claim)


class RabbitMQConsumer(BufferedConsumer[C]):
    """See ``base.Consumer``. While the server is away it tries again with growing delays; a
    refusal (a wrong login) ends the iteration with its error.

    Args:
        claim: makes of a message what the consumer delivers; a ValueError makes it a dead letter.
    """

    def __init__(
        self,
        link: Link,
        topology: Topology,
        topics: Topics,
        census: Census,
        topic: str,
        *,
        prefetch: int,
        ephemeral: bool,
        claim: Callable[[RabbitMQConsumer[Any], Channel, DeliveredMessage], C],
        left: Callable[[RabbitMQConsumer[Any]], None],
    ) -> None:
        super().__init__()
        self.topic = topic
        self._link = link
        self._topology = topology
        self._topics = topics
        self._census = census
        self._prefetch = prefetch
        self._ephemeral = ephemeral
        self._claim = claim
        self._left = left
        self._channel: Channel | None = None
        self._consumer_tag = ""
        self._held: dict[int, C] = {}
        self._refused: set[int] = set()
        self._done: list[int] = []
        self._acknowledging: asyncio.Task[None] | None = None
        self._cancelled = asyncio.Event()
        self._delivered = 0
        self._runner: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """Messages delivered here and not acknowledged."""
        return len(self._held)

    async def __aenter__(self) -> Self:
        # Subscribed before we return where that can be: from here on the topic is there and ours.
        try:
            await self._subscribe()
        except QueueUnavailableError as error:
            log.warning("waiting for the queue of topic %s: %s", self.topic, error)
        self._runner = asyncio.create_task(self._run(), name=f"consume {self.topic}")
        return self

    async def close(self) -> None:
        """Hand back what was not acknowledged. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._left(self)
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait({self._runner})
        channel = self._channel
        if channel is not None and not channel.is_closed:
            try:
                async with asyncio.timeout(links.ANSWER_SECONDS):
                    await self._leave(channel)
            except CAUGHT as error:
                # The server takes the messages back when it sees the connection end.
                log.debug("consumer of %s could not say goodbye: %s", self.topic, error)
        self._forget()
        await self._census.leave(self)

    async def _leave(self, channel: Channel) -> None:
        if self._acknowledging is not None:
            await self._acknowledging
        if self._consumer_tag:
            await channel.basic_cancel(self._consumer_tag)
        # Oldest first: they are delivered again in the order of their return.
        for delivery in sorted(self._held.values(), key=lambda held: held.published_at):
            await channel.basic_nack(delivery.tag, wait=False)
        await channel.close()

    async def resize(self, prefetch: int) -> None:
        """See ``base.Consumer``. A prefetch belongs to a consumer of the channel: a new one takes
        its place, and the channel keeps what is held, which the new one does not count."""
        if prefetch == self._prefetch:
            return
        self._prefetch = prefetch
        channel = self._channel
        if channel is None or channel.is_closed:
            return
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                if self._consumer_tag:
                    await channel.basic_cancel(self._consumer_tag)
                    self._consumer_tag = ""
                await self._start(channel, queue_name(self.topic))
        except CAUGHT as error:
            # Without a consumer it would wait for ever: it subscribes anew.
            self._cancelled.set()
            raise QueueUnavailableError(str(translate(self._link.name, error))) from error

    async def settle(self, delivery: Claim, *, back: bool) -> None:
        """Acknowledge or hand back; nothing where the claim was lost with its channel."""
        if self._held.get(delivery.tag) is not delivery:
            return
        del self._held[delivery.tag]
        try:
            if back:
                await delivery.channel.basic_nack(delivery.tag, wait=False)
                return
        except CAUGHT as error:
            raise QueueUnavailableError(str(translate(self._link.name, error))) from error
        if delivery.channel.is_closed:
            raise QueueUnavailableError(f"message queue {self._link.name}: the channel was closed")
        self._done.append(delivery.tag)
        if self._acknowledging is None or self._acknowledging.done():
            # After all that end in this turn of the event loop: they share a frame.
            self._acknowledging = asyncio.create_task(self._acknowledge())

    async def _acknowledge(self) -> None:
        """Acknowledge what is done, in one frame up to the first message that is still held."""
        while self._done and (channel := self._channel) is not None:
            done, self._done = sorted(self._done), []
            first_held = min((*self._refused, *itertools.islice(self._held, 1)), default=None)
            single = [tag for tag in done if first_held is not None and tag > first_held]
            try:
                if len(single) < len(done):
                    last = done[len(done) - len(single) - 1]
                    await channel.basic_ack(last, multiple=True, wait=False)
                for tag in single:
                    await channel.basic_ack(tag, wait=False)
            except CAUGHT as error:
                log.warning("messages of topic %s will come again: %s", self.topic, error)

    # -- the channel ---------------------------------------------------------------------------
    async def _run(self) -> None:
        backoff = Backoff()
        while not self._closed:
            try:
                if self._channel is None or self._channel.is_closed:
                    await self._subscribe()
                backoff.reset()
                await self._until_lost()
            except QueueUnavailableError as error:
                log.warning("topic %s: %s; trying again", self.topic, error)
            except QueueError as error:
                self._error = error
                self._changed.set()
                return
            self._forget()
            await asyncio.sleep(backoff.next())

    async def _subscribe(self) -> None:
        self._forget()
        self._cancelled.clear()
        channel = await self._link.channel()
        asked = False
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                queue = await self._declare(channel)
                if not self._ephemeral:
                    await self._census.join(self)
                channel.on_consumer_cancel_callbacks.add(self._on_cancel)
                self._channel = channel
                asked = True
                await self._start(channel, queue)
            self._topics.answers(self.topic)
        except CAUGHT as error:
            if asked and isinstance(error, TimeoutError) and await self._link.answers():
                await self._topics.silent(self.topic)
            raise translate(self._link.name, error) from error

    async def _start(self, channel: Channel, queue: str) -> None:
        if self._prefetch == 0:  # which the server would take for no limit
            return
        await channel.basic_qos(prefetch_count=self._prefetch)
        started = await channel.basic_consume(queue, self._receiver(channel))
        self._consumer_tag = started.consumer_tag or ""

    async def _declare(self, channel: Channel) -> str:
        if self._ephemeral:
            return await self._topology.declare_inbox(channel, self.topic)
        await self._topics.make(self.topic)
        return queue_name(self.topic)

    async def _until_lost(self) -> None:
        channel = self._channel
        assert channel is not None  # noqa: S101 - subscribed
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        watching = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait(
                {cancelled, watching, channel.closing}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            cancelled.cancel()
            watching.cancel()
        if channel.is_closed:
            raise QueueUnavailableError(f"the channel was closed: {_reason(channel)}")
        log.warning("topic %s is consumed anew: its queue may be another by now", self.topic)
        if self._acknowledging is not None:
            await self._acknowledging
        self._forget()  # before the channel is closed: its claims are lost, which is no error
        await channel.close()

    async def _watch(self) -> None:
        """Return when messages wait for us for long and do not come."""
        idle = False
        while True:
            before = self._delivered
            await asyncio.sleep(WATCH_SECONDS)
            try:
                # An inbox's queue has another name; what gets lost there is repaired.
                idle_here = bool(self._consumer_tag) and not (self._held or self._ephemeral)
                waiting = idle_here and (await self._census.ready(self.topic))[0] > 0
            except QueueError as error:
                log.debug("topic %s is not watched now: %s", self.topic, error)
                continue
            waiting = waiting and self._delivered == before
            if waiting and idle:
                return
            idle = waiting

    def _forget(self) -> None:
        """What was held over a channel that is gone is not ours any more."""
        self._channel = None
        self._consumer_tag = ""
        self._held.clear()
        self._done.clear()
        self._refused.clear()
        self._buffer.clear()

    def _on_cancel(self, frame: Any) -> None:
        self._cancelled.set()

    def remade(self) -> None:
        """See ``census.Holder``: our subscription may be to the queue that was there before."""
        self._cancelled.set()

    def _receiver(self, channel: Channel) -> Callable[[DeliveredMessage], Any]:
        async def receive(delivered: DeliveredMessage) -> None:
            if channel is not self._channel:
                return  # a channel that was given up: the server takes its messages back
            try:
                delivery = self._claim(self, channel, delivered)
            except ValueError as error:
                log.error("topic %s: a message becomes a dead letter: %s", self.topic, error)
                tag = delivered.delivery_tag or 0
                self._refused.add(tag)
                await channel.basic_reject(tag, requeue=False, wait=False)
                self._refused.discard(tag)
                return
            self._delivered += 1
            self._held[delivery.tag] = delivery
            self._buffer.append(delivery)
            self._changed.set()

        return receive


def headers_of(delivered: DeliveredMessage) -> dict[str, Any]:
    """The message's headers."""
    return delivered.header.properties.headers or {}


def _reason(channel: Channel) -> str:
    closing = channel.closing
    error = None if closing.cancelled() or not closing.done() else closing.exception()
    return str(error) if error else "the connection ended"
