"""Repeat what failed because something could not be reached, with growing and random pauses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llamadeploy.exceptions import StoreUnavailableError

T = TypeVar("T")


class Backoff:
    """Pauses that double from ``first`` to ``most`` seconds, each shortened by up to a half at
    random, so that many workers do not come back in step."""

    def __init__(self, first: float = 0.05, most: float = 1.0) -> None:
        self._next = first
        self._most = most

    def next(self) -> float:
        """The next pause in seconds."""
        pause = self._next
        self._next = min(self._most, self._next * 2)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


async def persist(call: Callable[[], Awaitable[T]], give_up: Callable[[], bool]) -> T:
    """Repeat a store call until it goes through (every store call may be repeated).

    Raises:
        StoreUnavailableError: still not reachable when ``give_up()`` became true.
    """
    backoff = Backoff()
    while True:
        try:
            return await call()
        except StoreUnavailableError:
            if give_up():
                raise
            await asyncio.sleep(backoff.next())
