"""How many messages of a topic are delivered and not acknowledged.

AMQP tells how many messages wait in a queue and how many consumers it has, but not what these hold.
So whoever wants to know asks them: a question goes to the exchange of the census, and each process
that consumes the topic answers with how many of its consumers there are and what they hold. The
answers are complete when they account for all of the queue's consumers. One that does not answer in
time (a stopped process) is counted as holding one message: better a message too many than none.

The same way consumers hear that their queue was deleted (:meth:`Census.announce`).

What is published here goes over the connection of publishers: a server short of memory stops each
connection that publishes, and a consumer's must go on to acknowledge.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import msgspec

from llamadeploy.exceptions import QueueError
from llamadeploy.message_queues.rabbitmq import link as links
from llamadeploy.message_queues.rabbitmq.driver import (
    CAUGHT,
    Channel,
    DeliveredMessage,
    exceptions,
    spec,
    translate,
)
from llamadeploy.message_queues.rabbitmq.link import Link
from llamadeploy.message_queues.rabbitmq.topology import Topology, queue_name

log = logging.getLogger(__name__)

CENSUS_SECONDS = 1.0
"""How long the answers are waited for."""

_REPLY_TO = "amq.rabbitmq.reply-to"
"""The server's shortcut for answers: no queue is made."""


class Answer(msgspec.Struct, frozen=True):
    """Of one process: its consumers of the topic, and what they hold together."""

    consumers: int
    held: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Answer).decode


class Holder(Protocol):
    """A consumer."""

    topic: str

    @property
    def held(self) -> int: ...

    def remade(self) -> None:
        """Its queue was deleted."""
        ...


class Census:
    """Answers for the consumers of one process, and asks."""

    def __init__(self, consuming: Link, publishing: Link, topology: Topology) -> None:
        self._link = consuming
        self._publishing = publishing
        self._topology = topology
        self._holders: dict[str, set[Holder]] = {}
        self._channel: Channel | None = None
        self._answering: Channel | None = None
        self._queue = ""
        self._lock = asyncio.Lock()

    async def join(self, holder: Holder) -> None:
        """From now on answer for a consumer, before the server counts it."""
        self._holders.setdefault(holder.topic, set()).add(holder)
        async with self._lock:
            if self._channel is None or self._channel.is_closed:
                await self._open()
            else:
                await self._channel.queue_bind(
                    self._queue, self._topology.census_exchange, holder.topic
                )

    async def leave(self, holder: Holder) -> None:
        """Answer for it no more. Idempotent."""
        holders = self._holders.get(holder.topic, set())
        holders.discard(holder)
        if holders or self._holders.pop(holder.topic, None) is None:
            return
        async with self._lock:
            if self._channel is not None and not self._channel.is_closed:
                try:
                    async with asyncio.timeout(links.ANSWER_SECONDS):
                        await self._channel.queue_unbind(
                            self._queue, self._topology.census_exchange, holder.topic
                        )
                except CAUGHT as error:
                    log.debug("census of %s: %s", holder.topic, error)

    async def _open(self) -> None:
        channel = await self._link.channel()
        await channel.exchange_declare(self._topology.census_exchange, durable=True)
        declared = await channel.queue_declare("", exclusive=True, auto_delete=True)
        self._queue = declared.queue or ""
        # Who joins meanwhile waits for the lock, and binds its own.
        for topic in list(self._holders):
            await channel.queue_bind(self._queue, self._topology.census_exchange, topic)

        async def hear(question: DeliveredMessage) -> None:
            holders = self._holders.get(question.routing_key or "", set())
            properties = question.header.properties
            if properties.reply_to is None:
                for holder in holders:
                    holder.remade()
            else:
                reply = Answer(len(holders), sum(holder.held for holder in holders))
                await self._answer(reply, properties.reply_to, properties.correlation_id)

        await channel.basic_consume(self._queue, hear, no_ack=True)
        self._channel = channel

    async def _answer(self, reply: Answer, to: str, correlation_id: str | None) -> None:
        try:
            if self._answering is None or self._answering.is_closed:
                self._answering = await self._publishing.channel()
            await self._answering.basic_publish(
                _encode(reply),
                routing_key=to,
                wait=False,
                properties=spec.Basic.Properties(correlation_id=correlation_id),
            )
        except (QueueError, *CAUGHT) as error:
            log.warning("a question about messages stays without an answer: %s", error)

    async def announce(self, topics: list[str]) -> None:
        """Tell the consumers of these topics, everywhere, that their queues were deleted.

        Raises:
            QueueUnavailableError: it is not known whether they heard it.
        """
        channel = await self._publishing.channel(confirms=True)
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                exchange = self._topology.census_exchange
                await channel.exchange_declare(exchange, durable=True)
                for topic in topics:
                    await channel.basic_publish(b"", exchange=exchange, routing_key=topic)
                await channel.close()
        except CAUGHT as error:
            raise translate(self._publishing.name, error) from error

    async def count(self, topic: str) -> tuple[int, int]:
        """Messages of a topic that wait and that are held; zeros for an unknown topic.

        Raises:
            QueueUnavailableError: the server cannot be reached now.
        """
        ready, consumers = await self.ready(topic)
        if consumers == 0:
            return ready, 0
        return ready, await self._ask(topic, consumers)

    async def ready(self, topic: str) -> tuple[int, int]:
        """Messages that wait, and consumers; zeros for an unknown topic."""
        channel = await self._link.channel()
        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                declared = await channel.queue_declare(queue_name(topic), passive=True)
                await channel.close()
        except CAUGHT as error:
            if isinstance(error, exceptions.ChannelNotFoundEntity):
                return 0, 0
            raise translate(self._link.name, error) from error
        return declared.message_count or 0, declared.consumer_count or 0

    async def _ask(self, topic: str, consumers: int) -> int:
        channel = await self._publishing.channel()
        answers: asyncio.Queue[Answer] = asyncio.Queue()

        async def collect(answer: DeliveredMessage) -> None:
            answers.put_nowait(_decode(answer.body))

        try:
            async with asyncio.timeout(links.ANSWER_SECONDS):
                await channel.exchange_declare(self._topology.census_exchange, durable=True)
                await channel.basic_consume(_REPLY_TO, collect, no_ack=True)
                await channel.basic_publish(
                    b"",
                    exchange=self._topology.census_exchange,
                    routing_key=topic,
                    wait=False,
                    properties=spec.Basic.Properties(reply_to=_REPLY_TO),
                )
                held = await self._collect(answers, consumers)
                await channel.close()
        except CAUGHT as error:
            raise translate(self._publishing.name, error) from error
        return held

    async def _collect(self, answers: asyncio.Queue[Answer], consumers: int) -> int:
        held = 0
        try:
            async with asyncio.timeout(CENSUS_SECONDS):
                while consumers > 0:
                    answer = await answers.get()
                    held += answer.held
                    consumers -= answer.consumers
        except TimeoutError:
            held += consumers
        return held
