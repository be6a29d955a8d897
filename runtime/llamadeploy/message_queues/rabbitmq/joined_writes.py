"""A connection that sends at once what is written in one turn of the event loop.

aiormq writes each frame on its own, and uvloop sends what it is given at once: a system call, a
packet and a wake-up of the server for each message and acknowledgement, though they come in bursts.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from llamadeploy.message_queues.rabbitmq.driver import (
    URL,
    TCPTransportFactory,
    TLSTransportFactory,
    TransportFactory,
)


class JoinedWriter:
    """A stream writer that keeps what is written until the loop's next turn."""

    def __init__(self, inner: asyncio.StreamWriter) -> None:
        self._inner = inner
        self._unsent: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send ``data`` with what else is written in this turn."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(data)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and not self._inner.is_closing():
            self._inner.write(b"".join(unsent))

    async def drain(self) -> None:
        """See :class:`asyncio.StreamWriter`."""
        self._send()
        await self._inner.drain()

    def write_eof(self) -> None:
        """See :class:`asyncio.StreamWriter`."""
        self._send()
        self._inner.write_eof()

    def close(self) -> None:
        """Close when everything is sent."""
        self._send()
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class JoinedTransport(TransportFactory):
    """For ``aiormq.connect(transport_factory=...)``; TLS where the URL says so."""

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See :class:`aiormq.connection.TransportFactory`."""
        plain = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await plain.create(url, **kwargs)
        return reader, cast(asyncio.StreamWriter, JoinedWriter(writer))
