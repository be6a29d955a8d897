"""Waiting on behalf of a client, no longer than the client does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException

from llamadeploy.control_plane.routes.capacity import capacity_of

T = TypeVar("T")

MAX_WAIT_SECONDS = 300.0
"""A longer ``?wait=`` is cut to this: proxies drop requests that are silent for minutes."""

CLIENT_CLOSED_REQUEST = 499
"""Status (nginx's) of a reply that nobody reads any more."""


class ClientDisconnected(Exception):
    """The client went away before the answer was there."""


async def while_connected(request: Request, wait: Coroutine[Any, Any, T]) -> T:
    """The outcome of ``wait``, which is cancelled when the client disconnects.

    Call it after the body was read.

    Raises:
        ClientDisconnected: the client is gone.
        HTTPException: 503, too many wait already.
    """
    capacity = capacity_of(request)
    try:
        capacity.begin_wait()
    except HTTPException:
        wait.close()
        raise
    try:
        return await _first(wait, request)
    finally:
        capacity.waits -= 1


async def _first(wait: Coroutine[Any, Any, T], request: Request) -> T:
    waiter = asyncio.ensure_future(wait)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((waiter, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not waiter.done():
            raise ClientDisconnected
        return await waiter
    finally:
        watcher.cancel()
        waiter.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
