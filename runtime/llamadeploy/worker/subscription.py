"""Keeps a subscription to a topic, through outages of the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from llamadeploy.exceptions import QueueError
from llamadeploy.message_queues.base import Consumer, Delivery, MessageQueue
from llamadeploy.worker.backoff import Backoff

log = logging.getLogger(__name__)


class Subscription:
    """Hands each delivery of a topic to ``on_delivery``, which must return soon.

    Args:
        group, prefetch, ephemeral: as of ``MessageQueue.consume``.
    """

    def __init__(
        self,
        queue: MessageQueue,
        topic: str,
        on_delivery: Callable[[Delivery], Awaitable[None]],
        *,
        group: str,
        prefetch: int,
        ephemeral: bool = False,
    ) -> None:
        self._queue = queue
        self._topic = topic
        self._on_delivery = on_delivery
        self._group = group
        self._prefetch = prefetch
        self._ephemeral = ephemeral
        self._task: asyncio.Task[None] | None = None
        self._consumer: Consumer | None = None
        self.active = asyncio.Event()
        """Set while the queue delivers to us."""

    def start(self) -> asyncio.Task[None]:
        """Subscribe; the task ends by :meth:`stop`, or with an error that waiting will not cure."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"consumer of {self._topic}")
        return self._task

    async def stop(self, timeout: float) -> None:
        """Hand back what was delivered and not acknowledged, and what was prefetched."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=timeout)

    async def resize(self, prefetch: int) -> None:
        """Take at most ``prefetch`` deliveries at once from now on.

        Raises:
            QueueUnavailableError: as of ``Consumer.resize``.
        """
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            if self._consumer is not None:
                await self._consumer.resize(prefetch)

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                async with self._queue.consume(
                    self._topic,
                    group=self._group,
                    prefetch=max(self._prefetch, 1),
                    ephemeral=self._ephemeral,
                ) as deliveries:
                    self._consumer = deliveries
                    if self._prefetch < 1:
                        await deliveries.resize(self._prefetch)
                    self.active.set()
                    async for delivery in deliveries:
                        backoff = Backoff()
                        await self._on_delivery(delivery)
            except QueueError as error:
                log.warning("no deliveries from %s for now: %s", self._topic, error)
            finally:
                self._consumer = None
                self.active.clear()
            await asyncio.sleep(backoff.next())
