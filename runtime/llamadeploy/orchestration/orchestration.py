"""The loops of an orchestrator, wherever it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

from llamadeploy.message_queues.base import KeepsDeadLetters, MessageQueue
from llamadeploy.messages import QueueMessage, topic_name
from llamadeploy.orchestration.dead_letter_loop import DeadLetterLoop
from llamadeploy.orchestration.message_loop import MessageLoop
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.orchestration.repair import RepairLoop
from llamadeploy.orchestration.retention import sweep_forever
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.registry import is_shared
from llamadeploy.types import CONTROL_PLANE_NAME

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""Pause before a loop that failed begins anew; meanwhile the process is not ready."""


class Orchestration:
    """Repairs, sweeps, and consumes the control plane's topic.

    Any number of these may work on one shared store and queue: due outbox rows and lost leases are
    leased to one of them, each message goes to one of them, and whatever one leaves behind when it
    dies comes to another, whose repetition the store drops.

    Args:
        name: the deployment's, for logs and problems.
        namespace: prefix of the topics.
        services: the names of the services, now.
        process: acts on a message; see :class:`llamadeploy.orchestration.message_loop.MessageLoop`.
        retention: seconds for which finished tasks and idle sessions are kept.
    """

    def __init__(
        self,
        store: StateStore,
        queue: MessageQueue,
        outbox: Outbox,
        *,
        name: str,
        namespace: str,
        services: Callable[[], Awaitable[set[str]]],
        process: Callable[[QueueMessage], Awaitable[None]],
        retention: float,
    ) -> None:
        self._name = name
        self._namespace = namespace
        self._services = services
        self._store = store
        self._retention = retention
        self._repair = RepairLoop(store, queue, outbox, namespace=namespace, services=services)
        topic = topic_name(namespace, CONTROL_PLANE_NAME)
        self._messages = MessageLoop(queue, store, topic, process)
        self._dead_letters = (
            DeadLetterLoop(store, queue, outbox, self._all_topics)
            if isinstance(queue, KeepsDeadLetters)
            else None
        )
        self._loops: list[asyncio.Task[None]] = []
        self._failed: set[str] = set()

    def start(self) -> None:
        """Begin; a store or queue that is away is tried again."""
        loops: list[tuple[str, Callable[[], Coroutine[None, None, None]]]] = [
            ("repair", self._repair.run),
            ("retention", lambda: sweep_forever(self._store, self._retention)),
            ("messages", self._messages.run),
        ]
        if self._dead_letters is not None:
            loops.append(("dead-letters", self._dead_letters.run))
        self._loops = [
            asyncio.create_task(self._keep_up(label, loop), name=f"{self._name}-{label}")
            for label, loop in loops
        ]
        for task in self._loops:
            task.add_done_callback(_ended)

    async def _keep_up(self, label: str, loop: Callable[[], Coroutine[None, None, None]]) -> None:
        """A failure that nobody foresaw is logged, and does not end an orchestrator's work."""
        while True:
            try:
                await loop()
            except Exception:
                log.exception("the %s loop of %s failed and begins anew", label, self._name)
            self._failed.add(label)
            await asyncio.sleep(RESTART_SECONDS)
            self._failed.discard(label)

    async def stop(self) -> None:
        """End the loops; store and queue stay open. Idempotent."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops.clear()

    def wake(self) -> None:
        """Something may be due for repair now."""
        self._repair.wake()

    def problems(self) -> list[str]:
        """Which loops do not run, empty when all do."""
        ended = [f"the {loop.get_name()} loop has ended" for loop in self._loops if loop.done()]
        return [*ended, *(f"the {label} loop failed" for label in sorted(self._failed))]

    async def _all_topics(self) -> list[str]:
        return [topic_name(self._namespace, CONTROL_PLANE_NAME), *await self._topics()]

    async def _topics(self) -> list[str]:
        return [topic_name(self._namespace, name) for name in await self._services()]


def _ended(loop: asyncio.Task[None]) -> None:
    """Say at once why: from here on the process is not ready."""
    if not loop.cancelled():
        log.error("the %s loop has ended", loop.get_name(), exc_info=loop.exception())


def runs_apart(queue_type: str, state_store_uri: str) -> bool:
    """Whether a deployment's orchestrators are processes of their own: where every process may
    open both its queue and its store."""
    return queue_type != "simple" and is_shared(state_store_uri)
