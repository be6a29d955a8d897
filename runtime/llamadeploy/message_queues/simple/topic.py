"""One topic of the broker: messages in the order of their publishing, ready or leased."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Entry:
    """An accepted message; ``body`` is its JSON text."""

    sequence: int
    id_: str
    body: bytes


@dataclass(slots=True, eq=False)
class Waiter:
    """A consumer that waits for up to ``limit`` messages."""

    consumer: str
    limit: int
    future: asyncio.Future[list[Lease]]


@dataclass(slots=True, eq=False)
class Topic:
    """Messages by sequence number, so that what is handed back goes in front of newer ones.

    Attributes:
        owner: the consumer an ephemeral topic vanishes with.
        alive: false once deleted; what is still leased from it is then forgotten.
    """

    name: str
    owner: str | None = None
    alive: bool = True
    dispatching: bool = False
    waiters: deque[Waiter] = field(default_factory=deque)
    size: int = 0
    _ready: list[tuple[int, Entry]] = field(default_factory=list)
    _pending: dict[str, Entry] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Messages ready plus leased."""
        return len(self._pending)

    @property
    def ready(self) -> int:
        """Messages that nobody holds."""
        return len(self._ready)

    def holds(self, id_: str) -> bool:
        """Whether a message of this id is ready or leased."""
        return id_ in self._pending

    def add(self, entry: Entry) -> None:
        """Append a message whose id it does not hold."""
        self._pending[entry.id_] = entry
        self.size += len(entry.body)
        heapq.heappush(self._ready, (entry.sequence, entry))

    def take(self, limit: int) -> list[Entry]:
        """The oldest ready messages, at most ``limit``; no longer ready, still pending."""
        count = min(limit, len(self._ready))
        return [heapq.heappop(self._ready)[1] for _ in range(count)]

    def give_back(self, entry: Entry) -> None:
        """Make a taken message ready again, in its old place."""
        heapq.heappush(self._ready, (entry.sequence, entry))

    def settle(self, entry: Entry) -> None:
        """Forget a taken message."""
        del self._pending[entry.id_]
        self.size -= len(entry.body)


@dataclass(slots=True, eq=False)
class Lease:
    """A message in the hands of one consumer. ``tag`` grows with every lease of the broker and
    across its restarts, so a tag of an earlier life never means another message."""

    tag: int
    topic: Topic
    entry: Entry

    @property
    def body(self) -> bytes:
        """The message's JSON text."""
        return self.entry.body
