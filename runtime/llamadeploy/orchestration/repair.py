"""The loops that put things right. Nothing on a task's way waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from llamadeploy.exceptions import LlamaDeployError, QueueError
from llamadeploy.message_queues.base import DeliveryMode, MessageQueue
from llamadeploy.messages import topic_name
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import Repaired, RepairPolicy

log = logging.getLogger(__name__)

RESEND_SECONDS = 3.0
"""When a task that was not started is published again, where the queue may have lost it."""

BACKLOG_RESEND_SECONDS = 30.0
"""The same while services have a backlog: most of what was not started simply waits its turn."""

MAX_IDLE_SECONDS = 1.0
"""How long the loop sleeps at most: what becomes due is due seconds later (leases, time-outs)."""

ROUND_SECONDS = 3.0
"""A round is made this often even if the store knows of nothing: the first one says to it when to
resend, and a backlog that is gone changes that."""

NEVER = float("-inf")

MIN_PAUSE_SECONDS = 0.25
"""Pause after a round that found nothing although something seemed due."""


class RepairLoop:
    """Publishes due outbox rows, takes back lost leases, ends what is out of retries or time.

    Args:
        namespace: prefix of the topics.
        services: their names now, to see which have a backlog.
    """

    def __init__(
        self,
        store: StateStore,
        queue: MessageQueue,
        outbox: Outbox,
        *,
        namespace: str,
        services: Callable[[], Awaitable[set[str]]],
    ) -> None:
        self._store = store
        self._queue = queue
        self._outbox = outbox
        self._namespace = namespace
        self._services = services
        self._wake = asyncio.Event()
        self._barren = False
        self._last = NEVER

    def wake(self) -> None:
        """Something may be due now."""
        self._wake.set()

    async def run(self) -> None:
        """Repair until cancelled; a store or queue that is away is tried again."""
        while True:
            try:
                pause = await self._pause()
                if pause <= 0:
                    await self.step()
                    continue
            except LlamaDeployError as error:
                log.warning("repair is put off: %s", error)
                pause = MAX_IDLE_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            self._barren = False

    async def step(self) -> Repaired:
        """One round; what it found is published."""
        policy = await self._policy()
        self._last = time.monotonic()
        repaired = await self._store.repair(policy)
        for task_id in repaired.dead_lettered:
            log.error("task %s was given up: its workers died", task_id)
        for task_id in repaired.timed_out:
            log.warning("task %s ran out of time", task_id)
        if repaired.lost_leases:
            log.warning("%d runs were lost by their workers", repaired.lost_leases)
        sent = await self._outbox.publish(repaired.publish)
        self._barren = not (sent or repaired.lost_leases or repaired.dead_lettered)
        self._barren = self._barren and not repaired.timed_out
        return repaired

    async def _pause(self) -> float:
        """Seconds until the next round."""
        least = MIN_PAUSE_SECONDS if self._barren else 0.0
        if time.monotonic() - self._last >= ROUND_SECONDS:
            return least
        due = await self._store.next_due()
        if due is None:
            return MAX_IDLE_SECONDS
        return min(max(due - time.time(), least), MAX_IDLE_SECONDS)

    async def _policy(self) -> RepairPolicy:
        """What to publish again: of a durable queue only what an empty topic must have lost. A
        backlog must not be multiplied, and one service's says nothing of the others; nor do tasks
        of a service that nobody has registered yet miss their messages."""
        services = await self._services()
        try:
            empty = await self._empty(services)
        except QueueError as error:
            # What the store knows to be lost or out of time is repaired all the same.
            log.warning("nothing is published again now: %s", error)
            return RepairPolicy(resend_unstarted_after=None)
        queue = self._queue.capabilities
        if queue.durable:
            return RepairPolicy(
                resend_unstarted_after=RESEND_SECONDS, resend_services=tuple(sorted(empty))
            )
        after = RESEND_SECONDS
        if empty != services:
            after = BACKLOG_RESEND_SECONDS
        elif self._last == NEVER:
            # An empty queue in memory that we find at the start has forgotten everything.
            after = 0.0
        copies = queue.delivery is DeliveryMode.BROADCAST  # the simple queue drops second ones
        return RepairPolicy(
            resend_unstarted_after=after,
            resend_services=tuple(sorted(services)) if copies else None,
        )

    async def _empty(self, services: set[str]) -> set[str]:
        """Those without a message; of a queue in memory, only whether there are any others."""
        empty = set()
        for service in services:
            if await self._queue.depth(topic_name(self._namespace, service)) == 0:
                empty.add(service)
            elif not self._queue.capabilities.durable:
                break
        return empty
