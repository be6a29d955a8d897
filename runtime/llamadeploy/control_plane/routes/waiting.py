"""Waiting on behalf of a client, no longer than the client does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException

from llamadeploy.control_plane.routes.capacity import capacity_of
from llamadeploy.http.protocol import DEPARTURE, Departure

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
    departure: Departure | None = request.scope.get(DEPARTURE)
    try:
        if departure is None:  # another server than ours
            return await _first(wait, request)
        return await _until(departure, wait)
    finally:
        capacity.waits -= 1


async def _until(departure: Departure, wait: Coroutine[Any, Any, T]) -> T:
    if departure.happened:
        wait.close()
        raise ClientDisconnected
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - narrows the type
    cancelled = False

    def leave() -> None:
        nonlocal cancelled
        cancelled = True
        task.cancel()

    departure.add(leave)
    try:
        return await wait
    except asyncio.CancelledError:
        if cancelled and task.cancelling() == 1:
            raise ClientDisconnected from None
        raise
    finally:
        departure.discard(leave)
        if cancelled:
            task.uncancel()


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
