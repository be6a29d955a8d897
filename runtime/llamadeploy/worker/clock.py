"""How long a run has worked: waiting for an event from outside does not count towards its limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class RunClock:
    """Adds up non-idle time and calls back once when it reaches the limit.

    Args:
        limit: seconds of non-idle time, ``None`` for no limit.
        used: seconds that earlier attempts of the same run have used.
        on_expired: called once, on the loop, when ``limit`` is reached.
    """

    __slots__ = ("_limit", "_loop", "_on_expired", "_since", "_timer", "_used")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: float | None,
        used: float,
        on_expired: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._limit = limit
        self._used = used
        self._on_expired = on_expired
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def used(self) -> float:
        """Non-idle seconds so far."""
        running = 0.0 if self._since is None else self._loop.time() - self._since
        return self._used + running

    @property
    def remaining(self) -> float | None:
        """Non-idle seconds left, not below zero; ``None`` for no limit."""
        return None if self._limit is None else max(0.0, self._limit - self.used)

    def resume(self) -> None:
        """The run works (again). Nothing happens when it did already."""
        if self._since is not None:
            return
        self._since = self._loop.time()
        remaining = self.remaining
        if remaining is not None:
            self._timer = self._loop.call_later(remaining, self._on_expired)

    def pause(self) -> None:
        """The run is idle or has ended. Nothing happens when it was already."""
        if self._since is None:
            return
        self._used = self.used
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
