"""Following a task's event log from a store: woken by appends, page by page, with heartbeats."""

from __future__ import annotations

from collections.abc import AsyncIterator

from llamadeploy.control_plane.streams import StreamItem, StreamReader
from llamadeploy.exceptions import NotFoundError
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import LogPage

PAGE_EVENTS = 1000
"""Events per read: a page takes a few milliseconds, so that many readers share the loop."""

HEARTBEAT_SECONDS = 2.5
"""Idle time after which an empty batch is yielded; 0.8.1's SDK gives up after 5 s of silence."""

TAIL_GRACE_SECONDS = 5.0
"""How long a finished task's stream waits for events that its result counts and the log has not."""


async def tail(
    store: StateStore, task_id: str, *, after: int = 0, legacy: bool = True, follow: bool = True
) -> AsyncIterator[list[StreamItem]]:
    """Batches of what a reader sees; an empty one says that the stream is alive.

    Ends when the task's result exists and its whole tail was yielded, or when the task was deleted.

    Args:
        after: the ``seq`` of the last event the reader has; 0 begins at the first.
        legacy: see :class:`StreamReader`.
        follow: wait for what comes, else end with what is there.

    Raises:
        NotFoundError: no such task (before the first batch only).
    """
    reader = StreamReader(legacy=legacy)
    with store.follow(task_id) as follower:
        page = await _first_page(store, task_id, reader, after)
        while True:
            items = reader.feed(page)
            if items:
                yield items
            if len(page.events) < PAGE_EVENTS:
                if reader.complete or not follow:
                    return
                wait = TAIL_GRACE_SECONDS if page.state.terminal else HEARTBEAT_SECONDS
                if not await follower.changed(wait):
                    if page.state.terminal:
                        yield reader.rest()
                        return
                    yield []
            try:
                page = await store.read_log(task_id, reader.after, PAGE_EVENTS)
            except NotFoundError:
                return


async def _first_page(store: StateStore, task_id: str, reader: StreamReader, after: int) -> LogPage:
    if after > 0:
        known = await store.read_log(task_id, after - 1, 1)
        if known.events and known.events[0].seq == after:
            reader.resume_after(known.events[0])
    return await store.read_log(task_id, reader.after, PAGE_EVENTS)
