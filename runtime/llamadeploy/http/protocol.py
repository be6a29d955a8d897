"""uvicorn's HTTP protocol, sending the head of a reply together with its body.

uvicorn writes them apart, and uvloop sends what it is given at once: two system calls, two packets,
and on loopback a client that is woken for the head alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedTransport:
    """A transport that keeps the head of a reply until the next write, or the loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.inner = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send ``data``; a reply's head is kept back for the first part of its body."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/"):
            self._head = data
            self._loop.call_soon(self._send_head)
            return
        self.inner.write(data)

    def _send_head(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self.inner.is_closing():
                self.inner.write(head)

    def close(self) -> None:
        """Close when everything is sent."""
        self._send_head()
        self.inner.close()

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.inner.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class HttpProtocol(HttpToolsProtocol):
    """For ``uvicorn.Config(http=...)``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See :class:`asyncio.Protocol`."""
        joined: Any = JoinedTransport(transport, self.loop)
        super().connection_made(joined)

    def handle_websocket_upgrade(self) -> None:
        """The protocol that follows gets the bare transport."""
        joined: Any = self.transport
        self.transport = joined.inner
        super().handle_websocket_upgrade()
