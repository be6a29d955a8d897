"""Waiting for a result with questions that the server holds open."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from llamadeploy.types import TaskResult

RESULT_WAIT = 20.0
"""Seconds one question for a result is held open; below the idle limit of common proxies."""


async def wait_for(
    ask: Callable[[float], Awaitable[TaskResult | None]], wait: float | None
) -> TaskResult | None:
    """The first result that ``ask``, given seconds to wait, returns within ``wait`` seconds."""
    deadline = None if wait is None else time.monotonic() + wait
    while True:
        left = RESULT_WAIT if deadline is None else max(0.0, deadline - time.monotonic())
        result = await ask(min(left, RESULT_WAIT))
        if result is not None or (deadline is not None and left <= RESULT_WAIT):
            return result
