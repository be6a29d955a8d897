"""A small HTTP/1.1 client for the requests that every task makes between our own processes.

It does what those need and nothing else: kept-alive connections, one request at a time on each,
whole bodies. That costs about a quarter of the CPU time of a general client's request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from llamadeploy.exceptions import ConfigurationError

IDLE_SECONDS = 30.0
"""A connection that was not used for longer is not used again: servers close idle ones (ours after
75 s, proxies mostly after 60), and a request that meets the closing has to be sent twice."""

_OWN_HEADERS = {"host", "content-type", "content-length", "transfer-encoding", "connection"}


class HttpReply(NamedTuple):
    """Status and whole body of a reply."""

    status: int
    body: bytes


class HttpConnectionError(ConnectionError):
    """There was no connection, it broke before the reply was whole, or the reply is not HTTP."""


class HttpClient:
    """Kept-alive connections to one server, opened as they are needed. One loop's use only.

    Args:
        base_url: ``http`` or ``https``, host, port and perhaps a path that goes before the others.
        headers: sent with every request.

    Raises:
        ConfigurationError: the URL has no host, another scheme, or a user name.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None) -> None:
        self._host, self._port, self._path, self._tls = _target(base_url)
        netloc = urlsplit(base_url).netloc
        self._headers = f"Host: {netloc}\r\n".encode() + _header_lines(headers or {})
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._closings = 0

    async def request(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float
    ) -> HttpReply:
        """Send a request that may be repeated: one that finds its kept connection closed by the
        server is sent once more on a new one.

        Args:
            path: with its query, already quoted, from the base URL's path on.
            body: JSON; ``None`` for no body.
            timeout: seconds until the whole reply must be there.

        Raises:
            TimeoutError: it was not.
            HttpConnectionError: see there.
        """
        loop = asyncio.get_running_loop()
        data = self._encoded(method, path, body)
        deadline = loop.time() + timeout
        closings = self._closings
        kept = self._kept(loop)
        if kept is not None:
            try:
                return await kept.exchange(data, deadline)
            except HttpConnectionError:
                if self._closings != closings:
                    raise
        connection = await self._connect(loop, deadline)
        return await connection.exchange(data, deadline)

    async def aclose(self) -> None:
        """End what is on its way and close the connections. Idempotent."""
        self._closings += 1
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    def _encoded(self, method: str, path: str, body: bytes | None) -> bytes:
        target = self._path + path
        if not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError(f"the path {target!r} is not quoted")
        line = f"{method} {target} HTTP/1.1\r\n".encode("ascii")
        if body is None:
            length = b"" if method == "GET" else b"Content-Length: 0\r\n"
            return b"%b%b%b\r\n" % (line, self._headers, length)
        return b"%b%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            line,
            self._headers,
            len(body),
            body,
        )

    def _kept(self, loop: asyncio.AbstractEventLoop) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if loop.time() - connection.idle_since < IDLE_SECONDS and not connection.closing:
                return connection
            connection.abort()
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop, deadline: float) -> _Connection:
        context = ssl.create_default_context() if self._tls else None
        try:
            async with asyncio.timeout_at(deadline):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._idle, self._open),
                    self._host,
                    self._port,
                    ssl=context,
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise HttpConnectionError(str(error)) from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection: the protocol of its transport, and the parser's callbacks."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, idle: list[_Connection], opened: set[_Connection]
    ) -> None:
        self._loop = loop
        self._idle = idle
        self._opened = opened
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[HttpReply] | None = None
        self._parts: list[bytes] = []
        self.idle_since = 0.0
        self.closing = False

    async def exchange(self, data: bytes, deadline: float) -> HttpReply:
        """Send a request and return its reply; see :meth:`HttpClient.request`."""
        if self.closing:
            raise HttpConnectionError("the server closed the connection")
        reply: asyncio.Future[HttpReply] = self._loop.create_future()
        self._reply = reply
        timer = self._loop.call_at(deadline, self._too_late)
        try:
            self._transport.write(data)
            return await reply
        finally:
            timer.cancel()
            if self._reply is reply:
                # Cancelled: what comes now would be taken for the next request's reply.
                self._reply = None
                self.abort()

    def abort(self) -> None:
        """Close at once; a request that is on its way fails."""
        self.closing = True
        self._transport.abort()

    def _too_late(self) -> None:
        self._fail(TimeoutError("no whole reply in time"))

    def _fail(self, error: OSError) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)
        self.abort()

    # -- the transport's callbacks -------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, so no isinstance here.
        self._transport = cast(asyncio.Transport, transport)
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self.abort()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(HttpConnectionError(f"the reply is not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        self._opened.discard(self)
        if self in self._idle:
            self._idle.remove(self)
        self._fail(HttpConnectionError(str(error or "the server closed the connection")))

    # -- the parser's callbacks ----------------------------------------------------------------
    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # informational: the reply follows
        body, self._parts = b"".join(self._parts), []
        reply, self._reply = self._reply, None
        if self._parser.should_keep_alive():
            self.idle_since = self._loop.time()
            self._idle.append(self)
        else:
            self.closing = True
            self._transport.close()
        if reply is not None and not reply.done():
            reply.set_result(HttpReply(status, body))


def _target(base_url: str) -> tuple[str, int, str, bool]:
    """Host, port, path without a slash at its end, and whether TLS is used."""
    try:
        url = urlsplit(base_url)
        port = url.port
    except ValueError as error:
        raise ConfigurationError(f"URL {base_url!r} is wrong: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigurationError(
            f"URL {base_url!r} is wrong: it must be http://HOST:PORT or https://HOST:PORT"
        )
    if url.username is not None or url.query or url.fragment:
        raise ConfigurationError(
            f"URL of {url.hostname} is wrong: it must have no user name, query or fragment"
        )
    tls = url.scheme == "https"
    return url.hostname, port or (443 if tls else 80), url.path.rstrip("/"), tls


def _header_lines(headers: Mapping[str, str]) -> bytes:
    for name, value in headers.items():
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"header {name!r} cannot be set: the client sets it itself")
        if not (name.isascii() and name.isprintable()) or any(c in value for c in "\r\n\0"):
            raise ConfigurationError(f"header {name!r} cannot be sent: it has a line break")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
