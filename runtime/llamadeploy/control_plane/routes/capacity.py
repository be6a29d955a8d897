"""How many requests may wait in one application: each holds a connection and some memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

MAX_STREAMS = 1000
"""Readers of events and logs; each has a reader of the store's log behind it."""

MAX_WAITS = 5000
"""Requests that wait for a result."""

RETRY_AFTER = {"Retry-After": "1"}


class Capacity:
    """Counts those who wait, and refuses more than the limits with 503."""

    def __init__(self, *, streams: int = MAX_STREAMS, waits: int = MAX_WAITS) -> None:
        self.max_streams = streams
        self.max_waits = waits
        self.streams = 0
        self.waits = 0

    def begin_wait(self) -> None:
        """One more request waits for a result; whoever called takes it off ``waits`` again.

        Raises:
            HTTPException: 503, too many do.
        """
        if self.waits >= self.max_waits:
            detail = f"{self.waits} requests wait for results here, and no more may: try later"
            raise HTTPException(503, detail, RETRY_AFTER)
        self.waits += 1


def capacity_of(request: Request) -> Capacity:
    """The application's, made at the first request."""
    state = request.app.state
    if not hasattr(state, "capacity"):
        state.capacity = Capacity()
    capacity: Capacity = state.capacity
    return capacity


class CountedStream(StreamingResponse):
    """A stream that counts while it is sent; one too many becomes a 503.

    Args:
        capacity: the application's.
    """

    def __init__(
        self, content: AsyncIterator[bytes], *, capacity: Capacity, media_type: str
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, headers=headers, media_type=media_type)
        self._capacity = capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        capacity = self._capacity
        if capacity.streams >= capacity.max_streams:
            detail = f"{capacity.streams} streams are read here, and no more may be: try later"
            refusal = JSONResponse({"detail": detail}, 503, RETRY_AFTER)
            await refusal(scope, receive, send)
            return
        capacity.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            capacity.streams -= 1
