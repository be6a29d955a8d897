"""A consumer of the simple queue over HTTP: it keeps a lease request open and holds deliveries."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Self

import msgspec

from llamadeploy.exceptions import QueueError, QueueUnavailableError
from llamadeploy.message_queues.buffer import BufferedConsumer
from llamadeploy.message_queues.simple import wire
from llamadeploy.message_queues.simple.batching import Batcher
from llamadeploy.message_queues.simple.connection import Backoff, Connection, topic_path
from llamadeploy.messages import QueueMessage

log = logging.getLogger(__name__)

WAIT_SECONDS = 20.0
"""How long the server may keep a lease request open."""

_LEASED = msgspec.json.Decoder(wire.LeaseReply)


class HttpDelivery:
    """A message leased over HTTP."""

    __slots__ = ("_consumer", "_settled", "message", "tag")

    def __init__(self, consumer: HttpConsumer, tag: int, message: QueueMessage) -> None:
        self._consumer = consumer
        self._settled = False
        self.tag = tag
        self.message = message

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self._consumer.topic

    async def ack(self) -> None:
        """Done with it. See ``base.Delivery``."""
        if not self._settled:
            self._settled = True
            await self._consumer.acknowledge(self.tag)

    async def nack(self) -> None:
        """Hand it back. See ``base.Delivery``."""
        if not self._settled:
            self._settled = True
            await self._consumer.hand_back([self.tag])


class HttpConsumer(BufferedConsumer[HttpDelivery]):
    """Holds at most ``prefetch`` messages, leased ahead of the iteration.

    While the server is away it tries again, with growing delays; a refusal (a wrong token) ends
    the iteration with its error.
    """

    def __init__(
        self, connection: Connection, topic: str, *, prefetch: int, ephemeral: bool
    ) -> None:
        super().__init__()
        self.id = uuid.uuid4().hex
        self.topic = topic
        self._connection = connection
        self._path = topic_path(topic)
        self._prefetch = prefetch
        self._ephemeral = ephemeral
        self._received = 0
        self._held: set[int] = set()
        self._unreturned: set[int] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._puller: asyncio.Task[None] | None = None
        self._acks: Batcher[int] = Batcher(self._send_acks)

    async def __aenter__(self) -> Self:
        # The first request before we return: from here on the topic exists and is ours.
        try:
            await self._lease(wait=0.0)
        except QueueUnavailableError as error:
            log.warning("waiting for the queue of topic %s: %s", self.topic, error)
        self._puller = asyncio.create_task(self._pull(), name=f"consume {self.topic}")
        return self

    async def resize(self, prefetch: int) -> None:
        """See ``base.Consumer``."""
        self._prefetch = prefetch
        self._release([])
        if len(self._held) >= prefetch:
            self._room.clear()

    async def close(self) -> None:
        """Hand back what was not acknowledged. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._buffer.clear()
        if self._puller is not None:
            self._puller.cancel()
            await asyncio.wait({self._puller})
        await self._acks.drain()
        try:
            await self._connection.request("DELETE", f"consumers/{self.id}")
        except QueueError as error:
            # The server notices our silence and takes the messages back by itself.
            log.debug("consumer of %s could not say goodbye: %s", self.topic, error)

    async def acknowledge(self, tag: int) -> None:
        """Settle one message; raises QueueUnavailableError, and then hands it back later."""
        if self._closed:
            return  # leaving the context handed it back: a lost claim
        self._release([tag])
        await self._acks.submit(tag)

    async def hand_back(self, tags: list[int]) -> None:
        """Return messages; raises QueueUnavailableError, and then tries again later."""
        if self._closed:
            return
        self._release(tags)
        try:
            await self._settle("nack", tags)
        except (QueueError, asyncio.CancelledError):
            self._unreturned.update(tags)
            raise

    async def repair(self, lost: bool) -> None:
        """Called after each heartbeat: hand back what could not be settled before.

        Args:
            lost: the server did not know us, so what is not yet iterated belongs to others.
        """
        if lost:
            self._unreturned.update(delivery.tag for delivery in self._buffer)
            self._release([delivery.tag for delivery in self._buffer])
            self._buffer.clear()
        tags = sorted(self._unreturned)
        if tags:
            await self._settle("nack", tags)
            self._unreturned.difference_update(tags)

    async def _pull(self) -> None:
        backoff = Backoff()
        while not self._closed:
            await self._room.wait()
            try:
                await self._lease(WAIT_SECONDS)
                backoff.reset()
            except QueueUnavailableError as error:
                log.warning("topic %s: %s; trying again", self.topic, error)
                await backoff.wait()
            except QueueError as error:
                self._error = error
                self._changed.set()
                return

    async def _lease(self, wait: float) -> None:
        request = wire.LeaseRequest(
            consumer=self.id,
            max=self._prefetch - len(self._held),
            wait=wait,
            ephemeral=self._ephemeral,
            received=self._received,
        )
        path = f"messages/{self._path}/lease"
        reply = await self._connection.call(_LEASED, "POST", path, request, wait)
        for item in reply.deliveries:
            self._received = max(self._received, item.tag)
            await self._take(item)
        if len(self._held) >= self._prefetch:
            self._room.clear()
        self._changed.set()

    async def _take(self, item: wire.Delivered) -> None:
        try:
            message = wire.decode_message(item.message)
        except ValueError as error:
            # Only a server of another release can give us one: it checks what it accepts.
            log.error("topic %s: dropping a message that cannot be read: %s", self.topic, error)
            await self._settle("ack", [item.tag])
            return
        self._held.add(item.tag)
        self._buffer.append(HttpDelivery(self, item.tag, message))

    def _release(self, tags: list[int]) -> None:
        self._held.difference_update(tags)
        if len(self._held) < self._prefetch:
            self._room.set()

    async def _send_acks(self, tags: list[int]) -> list[QueueError | None]:
        try:
            await self._settle("ack", tags)
        except (QueueError, asyncio.CancelledError):
            self._unreturned.update(tags)
            raise
        return [None] * len(tags)

    async def _settle(self, verb: str, tags: list[int]) -> None:
        request = wire.SettleRequest(consumer=self.id, tags=tags)
        await self._connection.request("POST", f"messages/{self._path}/{verb}", request)
