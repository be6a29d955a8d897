"""What every HTTP application of ours does for the browsers that may reach it, and with each reply.

A page of any web site can send requests to servers of the machine its reader sits at. So a request
that a browser says comes from another site is refused where it could change something, and without
a token a name that anybody could have registered (DNS rebinding) is refused too.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
"""Taken from the request where it has a sane one, made otherwise; in every reply, and in the log
lines about requests that failed."""

UI_PREFIX = "/ui/"
"""Front ends set headers of their own, may be framed, and decide whose pages may call them."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_PROCESS = secrets.token_hex(10).encode()
_numbers = itertools.count()
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PRIVATE_DOMAINS = ("localhost", "local", "internal", "test")
_NOT_STORED = (b"cache-control", b"no-store")
_HARDENING = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)


class ProtectionMiddleware:
    """Refuses what comes from foreign pages, and adds request id and headers to replies.

    Args:
        token: whether the application asks for a token.
        allowed_origins: origins whose pages may call (``cors_origins``); ``"*"`` is every one.
        reading_changes: whether also a ``GET`` changes something.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: bool,
        allowed_origins: Iterable[str] = (),
        reading_changes: bool = False,
    ) -> None:
        self._app = app
        self._token = token
        self._allowed = frozenset(allowed_origins)
        self._reading_changes = reading_changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        problem = self._problem(scope, headers)
        if scope["type"] == "websocket":
            if problem is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})  # 1008: policy violation
            return
        request_id = _request_id(headers.get(b"x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        answer = _answering(send, scope, request_id)
        if problem is None:
            await self._app(scope, receive, answer)
        else:
            await JSONResponse({"detail": problem}, status_code=403)(scope, receive, answer)

    def _problem(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        server = scope.get("server")
        if not self._token and server and _may_be_rebound(server[0], host):
            return (
                f"the name in Host is not one of this machine's: '{host[:100]}'; "
                "use 127.0.0.1 or localhost, or start the server with a token"
            )
        reads = scope.get("method") in _READING and not self._reading_changes
        if reads or scope["path"].startswith(UI_PREFIX):
            return None
        origin = headers.get(b"origin")
        site = headers.get(b"sec-fetch-site", b"none")
        if origin is None:
            foreign = site not in (b"none", b"same-origin")
        else:
            foreign = not self._trusts(origin.decode("latin-1"), host)
        if not foreign:
            return None
        shown = "another site" if origin is None else f"'{origin.decode('latin-1')[:100]}'"
        return (
            f"a web page of {shown} may not call this server; "
            "add its origin to the control plane's cors_origins where it should"
        )

    def _trusts(self, origin: str, host: str) -> bool:
        if origin in self._allowed or "*" in self._allowed:
            return True
        try:
            caller = urlsplit(origin)
            name = caller.hostname
        except ValueError:
            return False
        if name is None:
            return False
        # Pages of this very server; and pages that this very machine serves to itself.
        return caller.netloc.lower() == host or (_is_local(name) and _is_local(_name(host)))


def _answering(send: Send, scope: Scope, request_id: bytes) -> Send:
    plain = scope["path"].startswith(UI_PREFIX)

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
            if not plain:
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NOT_STORED)
                headers += _HARDENING
            message = {**message, "headers": headers}
        await send(message)

    return answer


def _request_id(given: bytes | None) -> bytes:
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return b"%b%012x" % (_PROCESS, next(_numbers))


@lru_cache(maxsize=256)
def _may_be_rebound(address: str, host: str) -> bool:
    """Whether a request to a loopback address names a host that a public DNS server may have
    pointed there."""
    if not _is_local(address) or not host:
        return False
    name = _name(host)
    if _is_address(name) or "." not in name.rstrip("."):
        return False
    return name.rstrip(".").rpartition(".")[2] not in _PRIVATE_DOMAINS


def _name(host: str) -> str:
    """A ``Host`` without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] or host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_local(name: str) -> bool:
    """Whether only this machine is meant."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
