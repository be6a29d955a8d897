"""Typed event streams that survive a broken connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx

from llamadeploy.client.errors import ServerError
from llamadeploy.client.transport import Transport
from llamadeploy.types import StreamRestart, TaskEvent

RECONNECT_SECONDS = 60.0
"""How long a stream that has begun is tried to be continued: a server's restart takes less."""

_PAUSE_SECONDS = 0.25


async def typed_events(
    transport: Transport, url: str, params: dict[str, Any], after: int
) -> AsyncGenerator[TaskEvent | StreamRestart]:
    """The events behind ``after``; a connection that breaks is made again where it broke off.

    Raises:
        ServerError: the server refused it.
        httpx.TransportError: the server cannot be reached (any more).
    """
    begun, heard = False, time.monotonic()
    while True:
        query = {**params, "format": "typed", "after": after}
        try:
            async with aclosing(transport.lines(url, query)) as lines:
                async for item in lines:
                    begun, heard = True, time.monotonic()
                    if "restart" in item:
                        yield StreamRestart.model_validate(item["restart"])
                        continue
                    event = TaskEvent.model_validate(item)
                    after = event.seq
                    yield event
            return
        except (httpx.TransportError, ServerError) as error:
            lasting = isinstance(error, ServerError) and error.status_code != 503
            if lasting or not begun or time.monotonic() - heard > RECONNECT_SECONDS:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)
