"""The worker's half of a state store that it opens itself, because every process may (Redis)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import (
    Completion,
    Execution,
    ExecutionKey,
    Finished,
    InboundEvent,
    NewEvent,
    ParkRequest,
    Renewal,
    StartReply,
    StartRequest,
)


class DirectExecutionStore:
    """``ExecutionStore`` without a control plane between; see
    :class:`llamadeploy.worker.remote_store.RemoteExecutionStore` for the other way.

    What follows from a task's end is published here, at once. A row that the queue does not take
    stays in the store's outbox, from where any control plane publishes it.

    Args:
        opener: opens the store, on the loop that makes the first call; called again when it
            raised ``StoreUnavailableError``.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[StateStore]],
        queue: MessageQueue,
        *,
        namespace: str,
        publisher_id: str,
    ) -> None:
        self._opener = opener
        self._queue = queue
        self._namespace = namespace
        self._publisher_id = publisher_id
        self._opening = asyncio.Lock()
        self._store: StateStore | None = None
        self._outbox: Outbox | None = None

    async def start(self, request: StartRequest) -> StartReply:
        """See :class:`llamadeploy.state_stores.base.ExecutionStore`, as for all of these."""
        store, outbox = await self._opened()
        reply = await store.start(request)
        if isinstance(reply, Execution):
            outbox.started(reply.task_id)
        return reply

    async def renew(
        self, worker_id: str, keys: Sequence[ExecutionKey], lease: float
    ) -> list[Renewal]:
        store, _ = await self._opened()
        return await store.renew(worker_id, keys, lease)

    async def append_events(self, key: ExecutionKey, events: Sequence[NewEvent]) -> bool:
        store, _ = await self._opened()
        return await store.append_events(key, events)

    async def read_inbound(self, key: ExecutionKey, after: int) -> list[InboundEvent]:
        store, _ = await self._opened()
        return await store.read_inbound(key, after)

    async def park(self, request: ParkRequest) -> Finished:
        store, outbox = await self._opened()
        return await _published(await store.park(request), outbox)

    async def finish(self, completion: Completion) -> Finished:
        store, outbox = await self._opened()
        return await _published(await store.finish(completion), outbox)

    async def release(self, key: ExecutionKey) -> Finished:
        store, outbox = await self._opened()
        return await _published(await store.release(key), outbox)

    async def note_resident(self, key: ExecutionKey, reason: str) -> bool:
        store, _ = await self._opened()
        return await store.note_resident(key, reason)

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int:
        store, _ = await self._opened()
        return await store.add_dead_letter(reason, message, service)

    async def aclose(self) -> None:
        """Close the store; rows that were published are deleted first."""
        if self._outbox is not None:
            await self._outbox.aclose()
        if self._store is not None:
            await self._store.aclose()

    async def _opened(self) -> tuple[StateStore, Outbox]:
        if self._store is None or self._outbox is None:
            async with self._opening:
                if self._store is None or self._outbox is None:
                    self._store = await self._opener()
                    self._outbox = Outbox(
                        self._store,
                        self._queue,
                        namespace=self._namespace,
                        publisher_id=self._publisher_id,
                        # A control plane's repair finds what stayed.
                        wake=lambda: None,
                    )
        return self._store, self._outbox


async def _published(reply: Finished, outbox: Outbox) -> Finished:
    if reply.publish:
        await outbox.publish(reply.publish)
        return Finished(accepted=reply.accepted)
    return reply
