"""The broker of the simple queue: topics in memory, leases, and consumers that must stay alive.

Everything runs on one event loop; waiting consumers are woken, never polling. A consumer's every
request counts as a heartbeat. One that is silent for too long loses its leases, back into their
old places, and its ephemeral topics. Nothing survives the process.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.message_queues.simple.topic import Entry, Lease, Topic, Waiter
from llamadeploy.messages import is_inbox_topic, topics_of

log = logging.getLogger(__name__)

SILENCE_SECONDS = 6.0
"""A consumer that is not heard of for this long is taken for dead."""

HEARTBEAT_SECONDS = 2.0
"""How often a consumer should be heard of: two heartbeats may get lost."""

_OWN_DELAY_SECONDS = 1.0
_REMEMBERED_TOPICS = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the broker's memory; beyond it a publish is refused, nothing is dropped.

    Attributes:
        topic_messages: messages of one topic, ready plus leased.
        total_bytes: bodies of all topics together.
        topics: how many topics there may be.
    """

    topic_messages: int = 100_000
    total_bytes: int = 512 * 2**20
    topics: int = 10_000


@dataclass(slots=True)
class _ConsumerRecord:
    """What the broker knows of a consumer; ``expires`` is false for those of its own process."""

    expires: bool
    seen: float = 0.0
    timer: asyncio.TimerHandle | None = None
    leases: dict[int, Lease] = field(default_factory=dict)
    ephemeral: set[str] = field(default_factory=set)
    waiting: tuple[Topic, Waiter] | None = None


class Broker:
    """Topics with competing consumers.

    Args:
        silence: seconds after which a consumer that is not heard of is taken for dead.
        limits: bounds of its memory.
    """

    def __init__(self, *, silence: float = SILENCE_SECONDS, limits: Limits | None = None) -> None:
        self._silence = silence
        self._limits = limits or Limits()
        self._topics: dict[str, Topic] = {}
        self._consumers: dict[str, _ConsumerRecord] = {}
        self._vanished: OrderedDict[str, None] = OrderedDict()
        self._sequence = itertools.count()
        self._tags = itertools.count(time.time_ns())
        self._bytes = 0
        self._closed = False

    # Topics

    @property
    def topics(self) -> list[str]:
        """The topics' names."""
        return list(self._topics)

    @property
    def consumers(self) -> list[str]:
        """The ids of the consumers that are taken for alive."""
        return list(self._consumers)

    def has_topic(self, name: str) -> bool:
        """Whether the topic exists."""
        return name in self._topics

    def create_topic(self, name: str) -> None:
        """Make sure the topic exists.

        Raises:
            QueueUnavailableError: there are too many topics, or the broker is closed.
        """
        self._topic(name)

    def delete_topic(self, name: str) -> None:
        """Forget the topic and its messages. Idempotent."""
        topic = self._topics.pop(name, None)
        if topic is None:
            return
        topic.alive = False
        self._bytes -= topic.size
        if topic.owner is not None and topic.owner in self._consumers:
            self._consumers[topic.owner].ephemeral.discard(name)
        for waiter in topic.waiters:
            _resolve(waiter, [])

    def purge(self, namespace: str) -> int:
        """Forget a namespace's topics; how many there were, inboxes not counted."""
        names = topics_of(namespace, self._topics)
        for name in names:
            self.delete_topic(name)
        return sum(not is_inbox_topic(name) for name in names)

    def depth(self, name: str) -> int:
        """Messages ready plus leased; 0 for an unknown topic."""
        topic = self._topics.get(name)
        return 0 if topic is None else topic.depth

    def ready(self, name: str) -> int:
        """Messages that nobody holds; 0 for an unknown topic."""
        topic = self._topics.get(name)
        return 0 if topic is None else topic.ready

    def waiting(self, name: str) -> int:
        """How many consumers wait for a message of the topic."""
        topic = self._topics.get(name)
        return 0 if topic is None else len(topic.waiters)

    # Messages

    def publish(self, name: str, id_: str, body: bytes) -> bool:
        """Append a message; false (and no change) where its id is pending or leased already.

        What is sent to an ephemeral topic whose consumer is gone is dropped.

        Raises:
            QueueUnavailableError: the topic or the broker is full; try again later.
        """
        if name in self._vanished:
            return False
        topic = self._topic(name)
        if topic.holds(id_):
            return False
        if topic.depth >= self._limits.topic_messages:
            raise QueueUnavailableError(
                f"topic {name} is full: it holds {topic.depth} messages; "
                "add replicas to its service, or try again later"
            )
        if self._bytes + len(body) > self._limits.total_bytes:
            raise QueueUnavailableError(
                f"the queue is full: a message of {len(body)} bytes on top of {self._bytes} passes "
                f"the limit of {self._limits.total_bytes}; try again later"
            )
        self._bytes += len(body)
        topic.add(Entry(next(self._sequence), id_, body))
        self._wake(topic)
        return True

    def pop(self, name: str) -> bytes | None:
        """Take the oldest ready message without a lease: lost if its reader dies."""
        topic = self._topics.get(name)
        if topic is None or not topic.ready:
            return None
        [entry] = topic.take(1)
        self._settle(topic, entry)
        return entry.body

    async def lease(
        self,
        name: str,
        consumer: str,
        *,
        limit: int = 1,
        wait: float | None = 0.0,
        ephemeral: bool = False,
        received: int | None = None,
    ) -> list[Lease]:
        """Up to ``limit`` messages, waiting for the first one up to ``wait`` seconds.

        A consumer has one such call at a time: a newer one ends the older, with nothing.

        Args:
            wait: ``None`` waits for ever. A consumer that expires meanwhile gets nothing.
            ephemeral: the topic vanishes with the consumer.
            received: the highest tag the consumer has seen. What it was given beyond that got
                lost on the way and goes back first.

        Raises:
            QueueUnavailableError: the broker is closed, or there are too many topics.
        """
        topic = self._topic(name)
        record = self._touch(consumer)
        self._stop_waiting(record)
        if ephemeral:
            topic.owner = consumer
            record.ephemeral.add(name)
        if received is not None:
            self._return(record, [tag for tag in record.leases if tag > received])
        if topic.ready or not (wait is None or wait > 0):
            return self._take(topic, record, limit)
        return await self._wait(topic, record, Waiter(consumer, limit, _new_future()), wait)

    def ack(self, consumer: str, tags: Iterable[int]) -> int:
        """Forget leased messages; how many of them this consumer still held."""
        record = self._known(consumer)
        leases = _held(record, tags)
        for lease in leases:
            self._settle(lease.topic, lease.entry)
        return len(leases)

    def nack(self, consumer: str, tags: Iterable[int]) -> int:
        """Hand leased messages back to where they were; how many this consumer still held."""
        record = self._known(consumer)
        return 0 if record is None else self._return(record, tags)

    # Consumers

    def open_consumer(self, consumer: str) -> None:
        """Register a consumer of this very process: it needs no heartbeats."""
        self._consumers.setdefault(consumer, _ConsumerRecord(expires=False)).expires = False

    def heartbeat(self, consumer: str) -> bool:
        """A sign of life; false where the consumer is unknown, so its leases are gone."""
        return self._known(consumer) is not None

    def close_consumer(self, consumer: str) -> None:
        """Hand back what the consumer holds and forget it and its ephemeral topics. Idempotent."""
        record = self._consumers.pop(consumer, None)
        if record is None:
            return
        if record.timer is not None:
            record.timer.cancel()
        self._stop_waiting(record)
        for name in list(record.ephemeral):
            topic = self._topics.get(name)
            if topic is not None and topic.owner == consumer:
                self.delete_topic(name)
                self._remember_vanished(name)
        self._return(record, list(record.leases))

    def close(self) -> None:
        """Wake everybody who waits, with nothing, and refuse what comes later. Idempotent."""
        self._closed = True
        for consumer in list(self._consumers):
            self.close_consumer(consumer)

    def check(self) -> None:
        """Raise QueueUnavailableError once the broker is closed."""
        if self._closed:
            raise QueueUnavailableError("the queue is shutting down; try again later")

    # Inside

    def _topic(self, name: str) -> Topic:
        self.check()
        topic = self._topics.get(name)
        if topic is None:
            if len(self._topics) >= self._limits.topics:
                raise QueueUnavailableError(
                    f"topic {name} cannot be made: there are {len(self._topics)} topics already"
                )
            topic = self._topics[name] = Topic(name)
            self._vanished.pop(name, None)
        return topic

    def _wake(self, topic: Topic) -> None:
        # One dispatch for all that is published in this turn of the loop: larger batches.
        if topic.waiters and not topic.dispatching:
            topic.dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch, topic)

    def _dispatch(self, topic: Topic) -> None:
        topic.dispatching = False
        while topic.ready and topic.waiters:
            # An even share, so that one consumer's prefetch does not idle the others.
            share = -(-topic.ready // len(topic.waiters))
            waiter = topic.waiters.popleft()
            record = self._consumers.get(waiter.consumer)
            if record is not None and not waiter.future.done():
                waiter.future.set_result(self._take(topic, record, min(share, waiter.limit)))

    def _take(self, topic: Topic, record: _ConsumerRecord, limit: int) -> list[Lease]:
        leases = [Lease(next(self._tags), topic, entry) for entry in topic.take(limit)]
        record.leases.update((lease.tag, lease) for lease in leases)
        return leases

    async def _wait(
        self, topic: Topic, record: _ConsumerRecord, waiter: Waiter, wait: float | None
    ) -> list[Lease]:
        loop = asyncio.get_running_loop()
        timer = None if wait is None else loop.call_later(wait, _resolve, waiter, [])
        topic.waiters.append(waiter)
        record.waiting = (topic, waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                self._return(record, [lease.tag for lease in waiter.future.result()])
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if record.waiting is not None and record.waiting[1] is waiter:
                record.waiting = None
            if waiter in topic.waiters:
                topic.waiters.remove(waiter)
            record.seen = loop.time()

    def _stop_waiting(self, record: _ConsumerRecord) -> None:
        if record.waiting is not None:
            topic, waiter = record.waiting
            record.waiting = None
            if waiter.future.done() and not waiter.future.cancelled():
                # Answered this very moment, to a request that nobody reads any more.
                self._return(record, [lease.tag for lease in waiter.future.result()])
            _resolve(waiter, [])
            if waiter in topic.waiters:
                topic.waiters.remove(waiter)

    def _return(self, record: _ConsumerRecord, tags: Iterable[int]) -> int:
        leases = _held(record, tags)
        for lease in leases:
            if lease.topic.alive:
                lease.topic.give_back(lease.entry)
                self._wake(lease.topic)
        return len(leases)

    def _settle(self, topic: Topic, entry: Entry) -> None:
        if topic.alive:
            topic.settle(entry)
            self._bytes -= len(entry.body)

    def _known(self, consumer: str) -> _ConsumerRecord | None:
        return self._touch(consumer) if consumer in self._consumers else None

    def _touch(self, consumer: str) -> _ConsumerRecord:
        record = self._consumers.get(consumer)
        if record is None:
            record = self._consumers[consumer] = _ConsumerRecord(expires=True)
        loop = asyncio.get_running_loop()
        record.seen = loop.time()
        if record.expires and record.timer is None:
            self._watch(consumer, record, loop)
        return record

    def _watch(
        self, consumer: str, record: _ConsumerRecord, loop: asyncio.AbstractEventLoop
    ) -> None:
        due = record.seen + self._silence
        record.timer = loop.call_at(due, self._check, consumer, record, due)

    def _check(self, consumer: str, record: _ConsumerRecord, due: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - due > _OWN_DELAY_SECONDS:
            # It is we who were away (a suspended machine, a blocked loop): their heartbeats may
            # lie unread in our sockets.
            record.seen = loop.time()
        if record.seen + self._silence > loop.time():
            self._watch(consumer, record, loop)
            return
        if record.leases:
            log.warning(
                "consumer %s is silent for %g s: handing back its %d messages",
                consumer, self._silence, len(record.leases),
            )  # fmt: skip
        self.close_consumer(consumer)

    def _remember_vanished(self, name: str) -> None:
        self._vanished[name] = None
        if len(self._vanished) > _REMEMBERED_TOPICS:
            self._vanished.popitem(last=False)


def _held(record: _ConsumerRecord | None, tags: Iterable[int]) -> list[Lease]:
    if record is None:
        return []
    return [lease for tag in tags if (lease := record.leases.pop(tag, None)) is not None]


def _new_future() -> asyncio.Future[list[Lease]]:
    return asyncio.get_running_loop().create_future()


def _resolve(waiter: Waiter, leases: list[Lease]) -> None:
    if not waiter.future.done():
        waiter.future.set_result(leases)
