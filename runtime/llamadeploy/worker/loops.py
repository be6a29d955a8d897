"""Two event loops on two threads, and the way from one to the other.

A worker's I/O (queue, store, leases) has a loop of its own, so that a workflow which blocks its
loop stops neither heartbeats nor leases.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import uvloop

log = logging.getLogger(__name__)


class Mailbox:
    """Calls to be made on a loop, posted from any thread, in order.

    Calls that are posted before the loop came to look share one wake-up: waking another thread's
    loop costs a system call and a change of the thread that holds the interpreter.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which the calls are made."""
        return self._loop

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Have ``call(*args)`` made soon; a loop that has closed forgets it."""
        self._calls.append((call, args))
        if self._woken:
            return
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._make_calls)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _make_calls(self) -> None:
        # Cleared before the calls are taken: whoever posts from here on wakes the loop again.
        self._woken = False
        while self._calls:
            call, args = self._calls.popleft()
            # Through the loop, so that an exception ends one call and not those behind it.
            self._loop.call_soon(call, *args)


class LoopThread:
    """An event loop on a daemon thread: a step that never returns must not keep the process."""

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop the loop; false where it is still blocked after ``timeout`` seconds."""
        self.loop.call_soon_threadsafe(self._stop)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _stop(self) -> None:
        self._stopping = True
        self.loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._stopping:
                try:
                    self.loop.run_forever()
                except (SystemExit, KeyboardInterrupt) as error:
                    # Some task raised it. The loop serves others, so it goes on.
                    log.warning("a task raised %r; its event loop goes on", error)
        finally:
            remaining = asyncio.all_tasks(self.loop)
            for task in remaining:
                task.cancel()
            if remaining:
                self.loop.run_until_complete(asyncio.gather(*remaining, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
