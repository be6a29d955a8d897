"""One request for what many callers ask within one turn of the loop, or while others are away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from llamadeploy.exceptions import QueueError

T = TypeVar("T")


class Batcher(Generic[T]):
    """Collects items and sends them together.

    Args:
        send: sends a batch and returns, in the same order, ``None`` or the error of each item;
            a :class:`QueueError` that it raises is every item's.
        max_batch: items of one request.
        max_in_flight: requests at the same time; what comes meanwhile waits for the next one.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[Sequence[QueueError | None]]],
        *,
        max_batch: int = 256,
        max_in_flight: int = 2,
    ) -> None:
        self._send = send
        self._max_batch = max_batch
        self._free = max_in_flight
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: T) -> None:
        """Return when the item was sent and accepted.

        Raises:
            QueueError: it was not, or (QueueUnavailableError) nobody knows.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((item, future))
        if not self._scheduled and self._free:
            self._scheduled = True
            loop.call_soon(self._flush)
        await future

    async def drain(self) -> None:
        """Wait until nothing is on its way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _flush(self) -> None:
        self._scheduled = False
        while self._waiting and self._free:
            batch, self._waiting = (
                self._waiting[: self._max_batch],
                self._waiting[self._max_batch :],
            )
            self._free -= 1
            task = asyncio.create_task(self._deliver(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, batch: list[tuple[T, asyncio.Future[None]]]) -> None:
        outcomes: Sequence[BaseException | None]
        try:
            outcomes = await self._send([item for item, _ in batch])
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised in the callers
            outcomes = [error] * len(batch)
        finally:
            self._free += 1
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if outcome is None:
                future.set_result(None)
            elif isinstance(outcome, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(outcome)
        self._flush()
