"""The API token: ``Authorization: Bearer``, or Basic with the token as the password."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import HTTPException, Request
from starlette.types import ASGIApp

from llamadeploy.http import serving

OPEN_PATHS = ("/healthz", "/readyz", "/metrics", "/status/metrics")
"""Probes and metrics need no token."""


class TokenMiddleware(serving.TokenMiddleware):
    """Asks for the token on every path of an ASGI application but :data:`OPEN_PATHS`."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        super().__init__(app, token, OPEN_PATHS)


def require_token(token: str | None) -> Callable[[Request], Awaitable[None]]:
    """The same as a FastAPI dependency, for single routers.

    Args:
        token: ``None`` lets everybody in (a laptop's loopback).
    """

    # async: FastAPI would run a plain function on a thread, for every request.
    async def check(request: Request) -> None:
        if token is None or request.url.path in OPEN_PATHS:
            return
        if not serving.token_matches(request.headers.get("authorization"), token):
            raise HTTPException(
                status_code=401,
                detail="a valid token is needed: 'Authorization: Bearer <token>'",
                headers={"WWW-Authenticate": 'Bearer, Basic realm="llamadeploy"'},
            )

    return check
