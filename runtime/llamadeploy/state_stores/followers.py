"""Waking whoever waits for a task, inside one process and on one event loop.

A follower that nobody wakes costs an entry in a dictionary; one that left costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from llamadeploy.state_stores.records import TaskRecord

ANY = ""
"""No task's id: who follows it is woken by whatever changes any task."""


class LocalFollower:
    """A ``Follower`` woken by ``Followers.wake``; a context manager, good for one use."""

    def __init__(self, registry: Followers, task_id: str) -> None:
        self._registry = registry
        self._task_id = task_id
        self._changed = asyncio.Event()
        self._news_of_end = asyncio.Event()
        self._ended: TaskRecord | None = None

    def __enter__(self) -> Self:
        self._registry.add(self._task_id, self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._registry.remove(self._task_id, self)

    def wake(self) -> None:
        """The task changed, and may have ended."""
        self._changed.set()
        self._news_of_end.set()

    def wake_unended(self) -> None:
        """The task changed, and has not ended."""
        self._changed.set()

    def wake_ended(self, record: TaskRecord) -> None:
        """The task ended, and this is its record."""
        self._ended = record
        self.wake()

    async def changed(self, timeout: float) -> bool:
        """See ``Follower.changed``."""
        return await _cleared(self._changed, timeout)

    async def end(self, timeout: float) -> TaskRecord | None:
        """See ``Follower.end``."""
        return self._ended if await _cleared(self._news_of_end, timeout) else None


async def _cleared(event: asyncio.Event, timeout: float) -> bool:
    """Wait for the event and clear it; false after ``timeout`` seconds."""
    if not event.is_set():
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return False
    event.clear()
    return True


class Followers:
    """The followers of one store, by task."""

    def __init__(self) -> None:
        self._by_task: dict[str, set[LocalFollower]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_task.values()))

    def follow(self, task_id: str) -> LocalFollower:
        """A follower that is not registered before it is entered."""
        return LocalFollower(self, task_id)

    def add(self, task_id: str, follower: LocalFollower) -> None:
        """Register."""
        self._by_task.setdefault(task_id, set()).add(follower)

    def remove(self, task_id: str, follower: LocalFollower) -> None:
        """Forget; idempotent."""
        followers = self._by_task.get(task_id)
        if followers is not None:
            followers.discard(follower)
            if not followers:
                del self._by_task[task_id]

    def wake(
        self, task_ids: Iterable[str], ended: Mapping[str, TaskRecord | None] | None = None
    ) -> None:
        """These tasks changed.

        Args:
            ended: those of them that ended or were forgotten (``None``); not given where the
                caller does not know.

        Who follows :data:`ANY` is woken by every call.
        """
        if not self._by_task:
            return
        for follower in self._by_task.get(ANY, ()):
            follower.wake_unended()
        for task_id in task_ids:
            for follower in self._by_task.get(task_id, ()):
                if ended is None or (task_id in ended and ended[task_id] is None):
                    follower.wake()
                elif (record := ended.get(task_id)) is not None:
                    follower.wake_ended(record)
                else:
                    follower.wake_unended()

    def wake_all(self) -> None:
        """Any task may have changed."""
        self.wake(list(self._by_task))
