"""Publishing of outbox rows and nudges. A row that could not be published stays in the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from llamadeploy.exceptions import QueueError, StoreError
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.messages import ActionTypes, QueueMessage, inbox_topic, topic_name
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import OutboxRow
from llamadeploy.types import CONTROL_PLANE_NAME

log = logging.getLogger(__name__)

ROUTE = "route"
"""Kind of a row that asks for an orchestrator's decision."""

PublishCallback = Callable[[QueueMessage], Awaitable[Any]]

HANG_SECONDS = 0.1
"""A queue that takes longer than this to refuse a message hangs, or waits to connect again ..."""

SPARE_SECONDS = 2.0
"""... and is spared for so long: rows stay in the outbox, and nobody waits for it."""

FLUSH_SECONDS = 1.0
"""For how long published rows are collected before one call deletes those whose tasks are not
known to have started meanwhile (a start deletes its row). When the process dies in between they are
published once more, under the same message id; the store's own lease of a new row is 5 s."""


class Outbox:
    """Publishes for one control plane.

    Args:
        wake: called when a row could not be published, so that the repair loop looks again.
        on_publish: called with each message after the queue has it.
    """

    def __init__(
        self,
        store: StateStore,
        queue: MessageQueue,
        *,
        namespace: str,
        publisher_id: str,
        wake: Callable[[], None],
        on_publish: PublishCallback | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._namespace = namespace
        self._publisher_id = publisher_id
        self._wake = wake
        self._on_publish = on_publish
        self._spared_until = float("-inf")
        self._published: dict[str, list[int]] = {}
        self._flushing: asyncio.Task[None] | None = None

    async def publish(self, rows: Sequence[OutboxRow]) -> int:
        """Publish what the queue takes, and return how many rows that were."""
        sent = 0
        for row in rows:
            message = self._message(row)
            if not await self._publish(self._topic(row), message):
                self._wake()
                continue
            sent += 1
            if self._on_publish is not None:
                await self._on_publish(message)
            if row.kind != ROUTE:
                # A route's row stays until its decision is stored: no lease guards the deciding.
                self._published.setdefault(row.task_id, []).append(row.row_id)
        if self._published and self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_later())
        return sent

    async def _publish(self, topic: str, message: QueueMessage) -> bool:
        """False: the queue did not take it."""
        asked = time.monotonic()
        if asked < self._spared_until:
            return False
        try:
            await self._queue.publish(topic, message)
        except QueueError as error:
            log.warning("message %s of topic %s was not published: %s", message.id_, topic, error)
            now = time.monotonic()
            if now - asked > HANG_SECONDS:
                self._spared_until = now + SPARE_SECONDS
            return False
        return True

    def started(self, task_id: str) -> None:
        """The task was started, or has ended: the store has deleted its row."""
        self._published.pop(task_id, None)

    async def nudge(
        self, action: ActionTypes, targets: Iterable[tuple[str, str]], seq: int = 0
    ) -> None:
        """Tell workers (pairs of task id and worker id) to look at the store.

        A lost nudge is noticed at the next renewal of the lease.
        """
        for task_id, worker_id in targets:
            message = QueueMessage(
                publisher_id=self._publisher_id,
                action=action,
                type=worker_id,
                data={"task_id": task_id, "seq": seq},
            )
            await self._publish(inbox_topic(self._namespace, worker_id), message)

    async def aclose(self) -> None:
        """Delete the rows that were published."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._flush()

    async def _flush_later(self) -> None:
        await asyncio.sleep(FLUSH_SECONDS)
        self._flushing = None
        await self._flush()

    async def _flush(self) -> None:
        published, self._published = self._published, {}
        rows = [row for task_rows in published.values() for row in task_rows]
        if not rows:
            return
        try:
            await self._store.outbox_done(rows)
        except StoreError as error:
            log.warning("%d published messages will be published again: %s", len(rows), error)

    def _topic(self, row: OutboxRow) -> str:
        destination = CONTROL_PLANE_NAME if row.kind == ROUTE else row.service
        return topic_name(self._namespace, destination)

    def _message(self, row: OutboxRow) -> QueueMessage:
        data: dict[str, Any] = {"task_id": row.task_id, "session_id": row.session_id}
        if row.kind == ROUTE:
            action, destination = ActionTypes.ROUTE_TASK, CONTROL_PLANE_NAME
        else:
            action, destination = ActionTypes.NEW_TASK, row.service
            data |= {
                "service_id": row.service,
                "input": row.input or "",
                "input_ref": row.input is None,
                "ancestors": list(row.ancestors),
            }
        return QueueMessage(
            id_=row.message_id,
            publisher_id=self._publisher_id,
            data=data,
            action=action,
            type=destination,
        )
