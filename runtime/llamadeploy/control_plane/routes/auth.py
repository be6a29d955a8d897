"""The API token: ``Authorization: Bearer``, or Basic with the token as the password."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Collection

from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Probes and metrics need no token."""

_DETAIL = (
    "A token is needed: send 'Authorization: Bearer TOKEN', or put it in the URL as "
    "http://x:TOKEN@host"
)
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def authorised(header: str | None, token: str) -> bool:
    """Whether an ``Authorization`` header carries the token, compared in constant time."""
    scheme, _, value = (header or "").partition(" ")
    value = value.strip()
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            value = ""
    elif scheme.lower() != "bearer":
        value = ""
    return hmac.compare_digest(value.encode(), token.encode())


def require_token(token: str | None) -> Callable[[Request], Awaitable[None]]:
    """A FastAPI dependency for routes of an application that is not open.

    Args:
        token: ``None`` lets everybody in (a laptop's loopback).
    """

    # async: FastAPI would run a plain function on a thread, for every request.
    async def check(request: Request) -> None:
        if token is None or request.url.path in OPEN_PATHS:
            return
        if not authorised(request.headers.get("authorization"), token):
            raise HTTPException(status_code=401, detail=_DETAIL, headers=_CHALLENGE)

    return check


class TokenMiddleware:
    """The same for a whole ASGI application, plain Starlette routes included."""

    def __init__(self, app: ASGIApp, token: str, open_paths: Collection[str] = OPEN_PATHS) -> None:
        self._app = app
        self._token = token
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] in ("http", "websocket") and scope["path"] not in self._open
        if guarded and not authorised(Headers(scope=scope).get("authorization"), self._token):
            response = JSONResponse({"detail": _DETAIL}, status_code=401, headers=_CHALLENGE)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)
