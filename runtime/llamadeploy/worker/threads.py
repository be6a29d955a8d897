"""The threads that a run leaves behind.

Cancelling a synchronous step (or ``asyncio.to_thread``) abandons its thread, which runs on: the
run's slot must stay taken until it has ended. Both go through the event loop's default executor,
so that is where they are counted, by a context variable of the run.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

MAX_THREADS = 64
"""Threads for the synchronous steps of all runs of a worker. Python's default (CPUs + 4) would make
the synchronous steps of 8 concurrent tasks on 2 CPUs wait for each other."""


class ThreadGroup:
    """The unfinished calls that one run has handed to threads."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: set[Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, future: Future[Any]) -> None:
        """Count ``future`` until it is done; callable from any thread."""
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)

    async def settled(self) -> None:
        """Return once all have ended."""
        while self._futures:
            await asyncio.wait([asyncio.wrap_future(future) for future in tuple(self._futures)])


current_group: ContextVar[ThreadGroup | None] = ContextVar("llamadeploy_threads", default=None)
"""The group of the run to which the current task belongs."""


class CountingExecutor(ThreadPoolExecutor):
    """A thread pool that enters each call into the group of the run that makes it."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As :meth:`ThreadPoolExecutor.submit`."""
        future = super().submit(fn, *args, **kwargs)
        group = current_group.get()
        if group is not None:
            group.add(future)
        return future


_installed: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Make a :class:`CountingExecutor` the default executor of ``loop``, once per loop."""
    if loop not in _installed:
        loop.set_default_executor(CountingExecutor(MAX_THREADS, "workflow-step"))
        _installed.add(loop)
