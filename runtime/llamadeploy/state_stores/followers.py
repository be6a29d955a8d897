"""Waking whoever waits for a task, inside one process and on one event loop.

A follower that nobody wakes costs an entry in a dictionary; one that left costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self


class LocalFollower:
    """A ``Follower`` woken by ``Followers.wake``; a context manager, good for one use."""

    def __init__(self, registry: Followers, task_id: str) -> None:
        self._registry = registry
        self._task_id = task_id
        self._changed = asyncio.Event()

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
        """The task changed."""
        self._changed.set()

    async def changed(self, timeout: float) -> bool:
        """See ``Follower.changed``."""
        if not self._changed.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                return False
        self._changed.clear()
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

    def wake(self, task_ids: Iterable[str]) -> None:
        """These tasks changed."""
        if self._by_task:
            for task_id in task_ids:
                for follower in self._by_task.get(task_id, ()):
                    follower.wake()
