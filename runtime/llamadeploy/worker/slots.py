"""How many runs a worker carries out at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from llamadeploy.message_queues.base import Delivery


class Seat:
    """A delivery's way through the worker. I/O loop only.

    Attributes:
        since: on the monotonic clock, when it took its slot; ``None`` while it has none.
        acked: the delivery was acknowledged before the end: the store's lease alone stands for it.
        calls: how many tasks of other services its run waits for.
    """

    __slots__ = ("acked", "calls", "delivery", "freeing", "since")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.since: float | None = None
        self.acked = False
        self.calls = 0
        self.freeing = False


class Slots:
    """So many runs may go on. Those that come back from a call go before those that are new: what
    they hold (their memory, their session) is free the earlier."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._free = number
        self._new: deque[asyncio.Future[None]] = deque()
        self._back: deque[asyncio.Future[None]] = deque()

    async def take(self, seat: Seat, patience: float | None) -> bool:
        """A slot for a new run; false when there was none within ``patience`` seconds."""
        if self._free:
            self._free -= 1
        elif not await self._wait(self._new, patience):
            return False
        seat.since = time.monotonic()
        return True

    async def take_back(self, seat: Seat) -> None:
        """A slot for a run that gave its own away."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(self._back, None)
        seat.since = time.monotonic()

    def give(self, seat: Seat) -> None:
        """The slot is free for another; nothing where it has none."""
        if seat.since is None:
            return
        seat.since = None
        self._pass_on()

    def _pass_on(self) -> None:
        for waiting in (self._back, self._new):
            while waiting:
                next_ = waiting.popleft()
                if not next_.done():
                    next_.set_result(None)
                    return
        self._free += 1

    async def _wait(self, line: deque[asyncio.Future[None]], patience: float | None) -> bool:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            # Not wait_for: a turn that came must not get lost in a time-out.
            await asyncio.wait((turn,), timeout=patience)
        except asyncio.CancelledError:
            if turn.done():
                self._pass_on()
            turn.cancel()
            raise
        if turn.done():
            return True
        turn.cancel()
        return False
