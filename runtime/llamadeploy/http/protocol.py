"""uvicorn's HTTP protocol, sending the head of a reply together with its body.

uvicorn writes them apart, and uvloop sends what it is given at once: two system calls, two packets,
and on loopback a client that is woken for the head alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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


DEPARTURE = "llamadeploy.departure"
"""Key of a scope: the :class:`Departure` of the client whose request it is."""


class Departure:
    """The end of a client's connection. Who asks it needs no task that waits in ``receive``.

    Attributes:
        happened: the client is gone.
    """

    __slots__ = ("_calls", "happened")

    def __init__(self) -> None:
        self.happened = False
        self._calls: set[Callable[[], object]] = set()

    def add(self, call: Callable[[], object]) -> None:
        """Have ``call`` made when the client leaves."""
        self._calls.add(call)

    def discard(self, call: Callable[[], object]) -> None:
        """Forget it. Idempotent."""
        self._calls.discard(call)

    def happen(self) -> None:
        """The client is gone."""
        self.happened = True
        for call in list(self._calls):
            call()


class HttpProtocol(HttpToolsProtocol):
    """For ``uvicorn.Config(http=...)``."""

    _departure: Departure

    @property
    def departure(self) -> Departure:
        """The end of this connection."""
        return self._departure

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See :class:`asyncio.Protocol`."""
        self._departure = Departure()
        joined: Any = JoinedTransport(transport, self.loop)
        super().connection_made(joined)

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        super().connection_lost(exc)
        self._departure.happen()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[DEPARTURE] = self._departure

    def on_message_complete(self) -> None:
        """Called by the parser."""
        super().on_message_complete()
        # A large body stops the reading, and who does not read does not see the client leave.
        if not self.pipeline:
            self.flow.resume_reading()

    def handle_websocket_upgrade(self) -> None:
        """The protocol that follows gets the bare transport."""
        joined: Any = self.transport
        self.transport = joined.inner
        super().handle_websocket_upgrade()
