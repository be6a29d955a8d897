"""Runs the async SDK for code that has no event loop."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from llamadeploy.client.model import Model


class Portal:
    """One event loop on a thread of its own, started at the first use, ended with its owner."""

    def __init__(self) -> None:
        self._portal: BlockingPortal | None = None

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a coroutine function to its end and return its value."""
        if self._portal is None:
            context = start_blocking_portal("asyncio")
            self._portal = context.__enter__()
            weakref.finalize(self, context.__exit__, None, None, None)

        async def run() -> Any:
            return await function(*args, **kwargs)

        future = self._portal.start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt of this thread must reach what it waited for
            raise

    def iterate(self, stream: AsyncIterator[Any]) -> Iterator[Any]:
        """Yield what an async iterator yields, as it comes."""
        end = object()

        async def step() -> Any:
            return await anext(stream, end)

        try:
            while (item := self.call(step)) is not end:
                yield item
        except GeneratorExit:
            # The reader has enough. An error of the stream's own has ended it already.
            close = getattr(stream, "aclose", None)
            if close is not None:
                self.call(close)
            raise


class SyncProxy:
    """Looks like ``target`` with every coroutine already awaited; models it returns do likewise."""

    def __init__(self, target: Any, portal: Portal) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_portal", portal)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        portal: Portal = self._portal
        if inspect.isasyncgenfunction(value):
            return lambda *args, **kwargs: portal.iterate(value(*args, **kwargs))
        if inspect.iscoroutinefunction(value):
            return lambda *args, **kwargs: self._wrap(portal.call(value, *args, **kwargs))
        if inspect.ismethod(value):
            return lambda *args, **kwargs: self._wrap(value(*args, **kwargs))
        return self._wrap(value)

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, Model):
            return SyncProxy(value, self._portal)
        if isinstance(value, list):
            return [self._wrap(item) for item in value]
        return value

    def __repr__(self) -> str:
        return f"<sync {self._target!r}>"
