"""The worker's half of a state store that it opens itself, because every process may (Redis)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from llamadeploy.control_plane.calls import MAX_PARENTS
from llamadeploy.exceptions import StoreError
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.messages import ActionTypes
from llamadeploy.orchestration.outbox import Outbox
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.observation import StoreObserver
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
from llamadeploy.types import TaskState

log = logging.getLogger(__name__)


class DirectExecutionStore:
    """``ExecutionStore`` without a control plane between; see
    :class:`llamadeploy.worker.remote_store.RemoteExecutionStore` for the other way.

    What follows from a task's end is published here, at once. A row that the queue does not take
    stays in the store's outbox, from where any control plane publishes it.

    Args:
        opener: opens the store, on the loop that makes the first call; called again when it
            raised ``StoreUnavailableError``.
        observer: told what this worker commits.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[StateStore]],
        queue: MessageQueue,
        *,
        namespace: str,
        publisher_id: str,
        observer: StoreObserver | None = None,
    ) -> None:
        self._opener = opener
        self._queue = queue
        self._namespace = namespace
        self._publisher_id = publisher_id
        self._observer = observer
        self._children: dict[str, set[str]] = {}
        self._forgetting: set[asyncio.Task[None]] = set()
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
        self,
        worker_id: str,
        keys: Sequence[ExecutionKey],
        lease: float,
        *,
        custody: bool = False,
    ) -> list[Renewal]:
        store, _ = await self._opened()
        return await store.renew(worker_id, keys, lease, custody=custody)

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
        reply = await store.finish(completion)
        children = self._children.pop(completion.key.task_id, None)
        if children and reply.accepted and completion.state is TaskState.SUCCEEDED:
            task = asyncio.create_task(self._forget(store, outbox, children))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)
        return await _published(reply, outbox)

    async def release(self, key: ExecutionKey) -> Finished:
        store, outbox = await self._opened()
        return await _published(await store.release(key), outbox)

    async def note_resident(self, key: ExecutionKey, reason: str) -> bool:
        store, _ = await self._opened()
        return await store.note_resident(key, reason)

    async def add_dead_letter(self, reason: str, message: str, service: str = "") -> int:
        store, _ = await self._opened()
        return await store.add_dead_letter(reason, message, service)

    def remember_child(self, parent_id: str, child_id: str) -> None:
        """A run has called another service: the call's session goes when the caller succeeded.

        Where another worker finishes the caller it goes by its retention.
        """
        self._children.setdefault(parent_id, set()).add(child_id)
        if len(self._children) > MAX_PARENTS:
            self._children.pop(next(iter(self._children)))

    async def _forget(self, store: StateStore, outbox: Outbox, children: set[str]) -> None:
        try:
            for child_id in children:
                child = await store.get_task(child_id)
                gone = await store.delete_session(child.session_id) if child is not None else None
                if gone is not None:
                    await outbox.publish(gone.publish)
                    await outbox.nudge(ActionTypes.CANCEL_TASK, gone.nudge)
        except StoreError as error:
            log.warning("sessions of finished calls stay until their retention ends: %s", error)

    async def aclose(self) -> None:
        """Close the store; what was begun is done, and published rows are deleted, first."""
        await asyncio.gather(*self._forgetting)
        if self._outbox is not None:
            await self._outbox.aclose()
        if self._store is not None:
            await self._store.aclose()

    async def _opened(self) -> tuple[StateStore, Outbox]:
        if self._store is None or self._outbox is None:
            async with self._opening:
                if self._store is None or self._outbox is None:
                    self._store = await self._opener()
                    self._store.observe(self._observer)
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
