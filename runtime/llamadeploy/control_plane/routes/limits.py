"""Bounded request bodies."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Of a client's request: inputs, events and states, which workers hold in memory."""

MAX_INTERNAL_BODY_BYTES = 256 * 1024 * 1024
"""Of a worker's request: a batch with several contexts."""


class BodyLimitMiddleware:
    """Answers 413 to bodies above the limit, declared or not.

    Args:
        streamed: beginnings of paths whose bodies are passed on piece by piece, never held.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int = MAX_BODY_BYTES,
        internal_limit: int = MAX_INTERNAL_BODY_BYTES,
        streamed: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._limit = limit
        self._internal_limit = internal_limit
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] in ("GET", "HEAD")
            or scope["path"].startswith(self._streamed)
        ):
            await self._app(scope, receive, send)
            return
        internal = scope["path"].startswith("/internal/")
        limit = self._internal_limit if internal else self._limit
        declared = Headers(scope=scope).get("content-length")
        if declared is not None:
            # httptools has checked that it is a number, and reads no further than that.
            if int(declared) > limit:
                await _refuse(limit, scope, receive, send)
                return
            await self._app(scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), send)


def _counted(receive: Receive, limit: int) -> Receive:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise HTTPException(413, _detail(limit), {"Connection": "close"})
        return message

    return counted


async def _refuse(limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse(
        {"detail": _detail(limit)}, status_code=413, headers={"Connection": "close"}
    )
    await response(scope, receive, send)


def _detail(limit: int) -> str:
    return f"The request body is too large: at most {limit} bytes are accepted"
