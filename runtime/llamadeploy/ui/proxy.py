"""Serves ``/ui/<deployment>/...`` from the deployment's front end, the path kept as it is.

Bodies are streamed in both directions, piece by piece as they come, so an endless response
(server-sent events) works and a large one costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import aiohttp
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from llamadeploy.exceptions import LlamaDeployError, NotFoundError
from llamadeploy.ui.headers import request_headers, response_headers, upstream_url
from llamadeploy.ui.websocket import proxy_websocket, refuse_websocket

log = logging.getLogger(__name__)

HEADER_SECONDS = 120.0
"""How long a front end may take to begin its answer, and a client between two pieces of its
request: development servers compile a page when it is asked for."""

REFUSED_METHODS = ("CONNECT", "TRACE")


class Upstream(Protocol):
    """A front end, as the proxy sees it."""

    @property
    def session(self) -> aiohttp.ClientSession:
        """Connects to it."""
        ...

    @property
    def port(self) -> int | None:
        """Where it listens; ``None`` while it does not."""
        ...

    def answering(self) -> AbstractContextManager[None]:
        """Around a request that a replacement of this front end waits for."""
        ...

    def problem(self) -> str:
        """Why it does not answer."""
        ...


class UiProxy:
    """An ASGI application for everything below ``/ui/``.

    Args:
        find: the front end of a deployment; raises ``NotFoundError`` where there is none.
        private_headers: in lower case, those of a request that are for this server alone: its
            token.
    """

    def __init__(
        self, find: Callable[[str], Upstream], *, private_headers: Iterable[str] = ()
    ) -> None:
        self._find = find
        self._private = frozenset(private_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = str(scope["path"]).removeprefix("/ui").lstrip("/").partition("/")[0]
        if scope["type"] == "websocket":
            await self._websocket(name, scope, receive, send)
        elif scope["method"] in REFUSED_METHODS:
            await _reply(405, f"{scope['method']} is not passed on", scope, receive, send)
        else:
            await self._http(name, scope, receive, send)

    async def _http(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        upstream = self._find(name)
        port = upstream.port
        if port is None:
            await _reply(502, _away(name, upstream), scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, request_headers(scope, drop=self._private))
        try:
            await exchange.run(upstream, port)
        except TimeoutError:
            text = f"the user interface of '{name}' did not answer in time"
            await exchange.fail(504, text)
        except aiohttp.ClientError as error:
            await exchange.fail(502, _away(name, upstream) + f" ({_kind(error)})")

    async def _websocket(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            upstream = self._find(name)
        except NotFoundError as error:
            await refuse_websocket(send, 404, str(error))
            return
        except LlamaDeployError as error:
            await refuse_websocket(send, 503, str(error))
            return
        if (port := upstream.port) is None:
            await refuse_websocket(send, 502, _away(name, upstream))
            return
        headers = request_headers(scope, drop=self._private)
        url = upstream_url(scope, port)
        await proxy_websocket(upstream.session, url, headers, scope, receive, send)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: Any) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = headers
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._deadline = asyncio.timeout(HEADER_SECONDS)
        self._answering = contextlib.ExitStack()
        self._started = False

    async def run(self, upstream: Upstream, port: int) -> None:
        """Pass everything on until the response's end, or until the client has gone."""
        self._answering.enter_context(upstream.answering())
        reading = asyncio.create_task(self._read(), name="ui request")
        passing = asyncio.create_task(self._pass(upstream, port), name="ui response")
        try:
            await asyncio.wait({reading, passing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = passing.done()
            reading.cancel()
            passing.cancel()
            results = await asyncio.gather(reading, passing, return_exceptions=True)
            self._answering.close()
        if finished and isinstance(results[1], BaseException):
            raise results[1]

    async def fail(self, status: int, text: str) -> None:
        """Answer with an error; where an answer has begun, break it off, so that its reader sees
        that it is incomplete."""
        if self._started:
            log.warning("%s: %s; the response was broken off", self._scope["path"], text)
        else:
            await _reply(status, text, self._scope, self._receive, self._send)

    async def _read(self) -> None:
        """The request's body, then the client's end, which is what ends this."""
        while True:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            if chunk := message.get("body", b""):
                await self._chunks.put(chunk)
            if not message.get("more_body", False):
                await self._chunks.put(None)

    async def _body(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            self._postpone()
            yield chunk
        self._postpone()

    def _postpone(self) -> None:
        """The upload goes on: the time for an answer starts anew."""
        if not self._started and not self._deadline.expired():
            loop = asyncio.get_running_loop()
            self._deadline.reschedule(loop.time() + HEADER_SECONDS)

    async def _pass(self, upstream: Upstream, port: int) -> None:
        has_body = (
            self._headers.get("content-length", "0") != "0"
            or any(name == b"transfer-encoding" for name, _ in self._scope["headers"])
        )  # fmt: skip
        request = upstream.session.request(
            self._scope["method"],
            upstream_url(self._scope, port),
            headers=self._headers,
            data=self._body() if has_body else None,
            allow_redirects=False,
        )
        async with contextlib.AsyncExitStack() as stack:
            async with self._deadline:
                response = await stack.enter_async_context(request)
                self._started = True
            if response.content_type == "text/event-stream":
                self._answering.close()  # it has no end, and its reader comes again
            await self._send(
                {
                    "type": "http.response.start",
                    "status": response.status,
                    "headers": response_headers(response.raw_headers, self._headers, port),
                }
            )
            async for piece in response.content.iter_any():
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._send({"type": "http.response.body", "body": b""})


async def _reply(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": "1"} if status == 502 else None
    response = JSONResponse({"detail": text}, status_code=status, headers=headers)
    await response(scope, receive, send)


def _away(name: str, upstream: Upstream) -> str:
    problem = upstream.problem().partition("\n")[0]
    return f"the user interface of '{name}' does not answer" + (f": {problem}" if problem else "")


def _kind(error: aiohttp.ClientError) -> str:
    """What went wrong, without addresses."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return "it cannot be connected to"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "it closed the connection"
    return type(error).__name__
