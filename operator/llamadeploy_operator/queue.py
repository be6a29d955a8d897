"""Keys that wait to be reconciled: each once, one run of a key at a time, retried with backoff.

Pure asyncio; knows nothing of Kubernetes. What a key means is the worker's matter.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

#: Seconds between two looks for reasons that come in bursts.
SPACING = 1.0
#: Seconds for which a patient key lets others pass.
PATIENCE = 30.0
#: Seconds before the first retry; doubled for each further one, up to the limit.
RETRY_FIRST = 0.5
RETRY_LIMIT = 120.0


@dataclass(frozen=True)
class Backoff:
    """How long a failing key waits: ``first * 2**n`` seconds up to ``limit``, plus up to 20 %.

    The jitter keeps a thousand keys, which failed together, from coming back together.
    """

    first: float = RETRY_FIRST
    limit: float = RETRY_LIMIT
    jitter: float = 0.2

    def delay(self, failures: int) -> float:
        """Seconds to wait after the ``failures``-th failure in a row (1 or more)."""
        # Far beyond the limit already; a bigger exponent would only overflow.
        exponent = min(failures - 1, 32)
        base = min(self.first * 2.0**exponent, self.limit)
        return base * (1.0 + random.uniform(0.0, self.jitter))  # noqa: S311


class ReconcileQueue(Generic[Key]):
    """A set of due keys, in the order of their arrival; ``patient`` ones let others pass.

    A patient key that has waited for :data:`PATIENCE` seconds passes those that came later: a
    thousand new resources get their children first and what became of them is looked at once,
    when there is more to see, but never much later.

    ``add`` may be called as often as one likes: a key that already waits is not queued twice, and
    a key that is being worked on is worked on once more afterwards, so that the last change is
    always seen. The worker returns the seconds after which it wants to look again, or ``None``;
    an exception is logged (without its trace, where it is ``expected``) and retried with
    ``backoff``, which a success resets.
    """

    def __init__(
        self,
        worker: Callable[[Key], Awaitable[float | None]],
        *,
        concurrency: int = 8,
        backoff: Backoff | None = None,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self._worker = worker
        self._expected = expected
        self._concurrency = concurrency
        self._backoff = backoff or Backoff()
        # A key that became more urgent is in it twice: the entry of the time in _queued counts.
        self._ready: asyncio.PriorityQueue[tuple[float, int, Key]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._queued: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._again: dict[Key, bool] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        # Of the last SPACING seconds.
        self._ended: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}

    def depth(self) -> int:
        """Keys that could be worked on now; those that wait for their time do not count."""
        return len(self._queued) + len(self._again)

    def busy(self) -> int:
        """Keys that are being worked on at this moment."""
        return len(self._running)

    def delayed(self) -> int:
        """Keys that wait for their time."""
        return len(self._timers)

    def add(
        self, key: Key, delay: float = 0.0, *, patient: bool = False, spaced: bool = False
    ) -> None:
        """Let ``key`` be worked on, at once or in ``delay`` seconds.

        Of several delays the earliest counts, and one that is not patient: a later ``add`` never
        postpones a key.

        Args:
            spaced: not before :data:`SPACING` seconds after the end of the last time.
        """
        if spaced and key in self._ended:
            now = asyncio.get_running_loop().time()
            delay = max(delay, self._ended[key] + SPACING - now)
        if delay > 0:
            self._add_later(key, delay, patient)
            return
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._running:
            self._again[key] = patient and self._again.get(key, True)
            return
        place = asyncio.get_running_loop().time() + (PATIENCE if patient else 0.0)
        if place < self._queued.get(key, math.inf):
            self._queued[key] = place
            self._ready.put_nowait((place, next(self._numbers), key))

    def _add_later(self, key: Key, delay: float, patient: bool) -> None:
        if key in self._queued or key in self._again:
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(
            delay, functools.partial(self.add, key, patient=patient)
        )

    async def run(self) -> None:
        """Work until cancelled, with at most ``concurrency`` keys at a time."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._concurrency):
                group.create_task(self._work(), name=f"reconcile-{number}")

    async def _work(self) -> None:
        while True:
            place, _, key = await self._ready.get()
            if self._queued.get(key) != place:
                continue
            del self._queued[key]
            self._running.add(key)
            try:
                await self._once(key)
            finally:
                self._running.discard(key)
                self._note_end(key)
                if key in self._again:
                    self.add(key, patient=self._again.pop(key))

    def _note_end(self, key: Key) -> None:
        loop = asyncio.get_running_loop()
        ended = self._ended[key] = loop.time()

        def forget() -> None:
            if self._ended.get(key) == ended:
                del self._ended[key]

        loop.call_later(SPACING, forget)

    async def _once(self, key: Key) -> None:
        try:
            again_in = await self._worker(key)
        except Exception as error:
            failures = self._failures.get(key, 0) + 1
            self._failures[key] = failures
            delay = self._backoff.delay(failures)
            logger.warning(
                "%s: failed %d times, next try in %.1f s: %s",
                key,
                failures,
                delay,
                error,
                exc_info=not isinstance(error, self._expected),
            )
            self._add_later(key, delay, patient=True)
            return
        self._failures.pop(key, None)
        if again_in is not None:
            self._add_later(key, again_in, patient=True)
