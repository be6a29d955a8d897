"""The contract of a message queue adapter.

A queue delivers at least once: a delivery that was neither acknowledged nor handed back (its
consumer died, its lease ran out) is delivered again. What must happen exactly once is guarded by
the state store's compare-and-sets, never by the queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from llamadeploy.messages import QueueMessage


class DeliveryMode(StrEnum):
    """Who of the consumers of a topic gets a message."""

    COMPETING = "competing"
    BROADCAST = "broadcast"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an adapter promises; the delivery table's runtime half.

    Attributes:
        delivery: one consumer per message, or each of them.
        ordered: whether a topic's messages arrive in the order of their publishing.
        durable: whether accepted messages survive the end of the process that holds them. Where
            they do not, the control plane publishes again what was not started in time.
        max_consumers: how many consumers of one topic get work, ``None`` for any number.
    """

    delivery: DeliveryMode
    ordered: bool
    durable: bool
    max_consumers: int | None = None


class Delivery(Protocol):
    """A message in the hands of one consumer, until ``ack`` or ``nack``."""

    @property
    def message(self) -> QueueMessage:
        """The message."""
        ...

    @property
    def topic(self) -> str:
        """The topic it came from."""
        ...

    async def ack(self) -> None:
        """Done: never deliver it again. Idempotent; a lost claim makes it a no-op.

        Raises:
            QueueUnavailableError: the queue cannot be reached; the message will come again.
        """
        ...

    async def nack(self) -> None:
        """Hand it back at once, for any consumer, in front of newer messages where possible."""
        ...


@runtime_checkable
class Consumer(Protocol):
    """A subscription; an async context manager and an endless async iterator of deliveries.

    Leaving the context hands back at once what was not acknowledged.
    """

    def __aiter__(self) -> AsyncIterator[Delivery]: ...

    async def __aenter__(self) -> Self: ...

    async def resize(self, prefetch: int) -> None:
        """Hold at most ``prefetch`` unacknowledged messages from now on, 0 for none. What is held
        already stays.

        Raises:
            QueueUnavailableError: the queue cannot be reached; the new size counts all the same.
        """
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...


class DeadDelivery(Protocol):
    """A message that the queue has given up, in the hands of one consumer."""

    @property
    def body(self) -> bytes:
        """As it was published; it may be anything."""
        ...

    @property
    def reason(self) -> str:
        """Why it was given up, for people."""
        ...

    @property
    def topic(self) -> str:
        """The topic it was published to."""
        ...

    async def ack(self) -> None:
        """Dealt with: forget it. See :meth:`Delivery.ack`."""
        ...

    async def nack(self) -> None:
        """Keep it, for any consumer. See :meth:`Delivery.nack`."""
        ...


@runtime_checkable
class DeadLetterConsumer(Protocol):
    """Like a :class:`Consumer`, of what the queue gave up."""

    def __aiter__(self) -> AsyncIterator[DeadDelivery]: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class KeepsDeadLetters(Protocol):
    """A message queue that puts aside, by itself, what cannot be read or comes back too often. The
    orchestrator consumes it and writes the errors of the tasks."""

    def dead_letters(self, topic: str, *, prefetch: int = 1) -> DeadLetterConsumer:
        """Subscribe to what the topic gave up."""
        ...


class MessageQueue(Protocol):
    """One adapter; made by :func:`llamadeploy.message_queues.registry.open_queue`."""

    @property
    def capabilities(self) -> Capabilities:
        """What this adapter, as configured, promises."""
        ...

    async def publish(self, topic: str, message: QueueMessage) -> None:
        """Return once the queue has the message (creating the topic where there is none).

        Raises:
            QueueUnavailableError: not accepted; publish again later.
        """
        ...

    def consume(
        self, topic: str, *, group: str, prefetch: int = 1, ephemeral: bool = False
    ) -> Consumer:
        """Subscribe as a member of ``group``, holding at most ``prefetch`` unacknowledged messages.

        ``ephemeral`` topics have one consumer and vanish with it (a worker's inbox).
        """
        ...

    async def depth(self, topic: str) -> int:
        """Messages ready plus delivered and not yet acknowledged; 0 for an unknown topic."""
        ...

    async def ready(self, topic: str) -> int:
        """The part of :meth:`depth` that nobody holds."""
        ...

    async def delete_topic(self, topic: str) -> None:
        """Forget the topic and what is in it. Idempotent."""
        ...

    async def purge(self, namespace: str) -> int:
        """Forget the topics of a namespace (see :func:`llamadeploy.messages.topics_of`) and what is
        in them; how many there were, inboxes not counted. Nobody should use them now: what is
        published or consumed meanwhile makes its topic again.

        Raises:
            QueueUnavailableError: the queue cannot be reached; a part may be gone.
        """
        ...

    async def ping(self) -> None:
        """Return when the queue answers.

        Raises:
            QueueUnavailableError: it does not; the message says why.
        """
        ...

    async def aclose(self) -> None:
        """Stop consumers (handing back) and release connections. Idempotent."""
        ...
