"""Refuse request bodies that are too large, before they are in memory."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEPLOYMENT_FILE_BYTES = 8 * 1024 * 1024
"""Of ``/deployments/create``: the ConfigMaps in a file hold 1 MiB each, as in Kubernetes."""

REQUEST_BYTES = 64 * 1024 * 1024
"""Of everything else: tasks and events."""


class BodyLimit:
    """ASGI middleware: 413 with a clear detail, also where no length was declared."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = REQUEST_BYTES
        if scope["path"] == "/deployments/create":
            limit = DEPLOYMENT_FILE_BYTES
        if _declared(scope) > limit:
            response = JSONResponse({"detail": _detail(limit)}, 413, {"Connection": "close"})
            await response(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _detail(limit), {"Connection": "close"})
            return message

        await self._app(scope, limited, send)


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _detail(limit: int) -> str:
    return f"the request's body is larger than {limit // (1024 * 1024)} MiB; send less"
