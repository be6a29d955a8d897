"""The HTTP protocol with bounds: uvicorn's parser takes heads of any size, for any time."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

from llamadeploy.http.protocol import HttpProtocol

MAX_URL_BYTES = 16 * 1024
MAX_HEADERS = 100
MAX_HEAD_BYTES = 64 * 1024
"""URL and headers of one request; browsers and proxies stay below 16 KiB."""

HEAD_SECONDS = 30.0
"""From the connection (or the first byte of a later request) until the head is there."""

LINGER_SECONDS = 2.0
"""What a refused client gets to read the answer."""


class BoundedProtocol(HttpProtocol):
    """Answers 414 to a long URL, 431 to too many or too large headers, and 408 to a head that does
    not come; then it closes the connection. It holds at most ``MAX_HEAD_BYTES`` and one read."""

    _in_head = True
    _began_now = False
    _head_bytes = 0
    _refused = False
    _problem: tuple[int, str] | None = None
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._began_now = False
        super().data_received(data)
        if self._refused or not self._in_head:
            return
        # What began in the middle of this read is counted from the next one on.
        self._head_bytes += 0 if self._began_now else len(data)
        if self._problem is None and self._head_bytes > MAX_HEAD_BYTES:
            self._problem = _too_large()
        if self._problem is not None:
            self._refuse(*self._problem)
        else:
            self._await_head()

    # -- parser callbacks ----------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self._in_head = self._began_now = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > MAX_URL_BYTES:
            self._problem = (414, f"the URL is too long: at most {MAX_URL_BYTES} bytes are taken")
        else:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            self._problem = (431, f"there are too many headers: at most {MAX_HEADERS} are taken")
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_timer()
        if self._problem is None and _size(self.headers) > MAX_HEAD_BYTES:
            self._problem = _too_large()
        if self._problem is not None:
            self._refuse(*self._problem)
        elif not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._refused:
            super().handle_websocket_upgrade()

    # -- refusing ------------------------------------------------------------------------------
    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(408, f"the request did not come within {HEAD_SECONDS:g} s")

    def _refuse(self, status: int, detail: str) -> None:
        self._refused = True
        self._forget_timer()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an earlier answer is being written: ours would mix with it
            return
        body = json.dumps({"detail": detail}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode())
        self.transport.write(body)
        self.transport.write_eof()
        # What still comes is read and dropped for a while: a close with unread bytes would reset
        # the connection, and the answer would get lost.
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _too_large() -> tuple[int, str]:
    return 431, f"the headers are too large: at most {MAX_HEAD_BYTES} bytes are taken"


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)
