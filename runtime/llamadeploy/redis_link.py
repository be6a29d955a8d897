"""A connection to Redis without redis-py's way of waiting for each answer.

redis-py connects, logs in and selects; from there on a protocol of ours has the transport. An
answer then costs a call of a function instead of a stream, a time-out and two turns of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

_NOTHING = object()


class RedisLink(asyncio.Protocol):
    """See the module.

    Args:
        connection: connected, with nothing under way; it is of no other use afterwards.
        answered: called with each answer: bytes, int, list, None, or redis-py's exception for an
            error. What it raises ends the connection.

    Attributes:
        ended: done once the connection is over; its result says why.
    """

    def __init__(self, connection: AbstractConnection, answered: Callable[[Any], None]) -> None:
        import hiredis
        from redis.asyncio.connection import DefaultParser

        self._answered = answered
        self._pack = hiredis.pack_command
        self._reader = hiredis.Reader(replyError=DefaultParser.parse_error, notEnoughData=_NOTHING)
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        writer = connection._writer
        if writer is None:
            raise ConnectionError("the connection ended")
        self._connection = connection  # which would close the transport when it is collected
        self._transport: asyncio.WriteTransport = writer.transport
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self._end(ConnectionError("the connection ended"))

    def send(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """Send commands together; nothing where the connection is over."""
        if not self.ended.done():
            self._transport.write(b"".join(map(self._pack, commands)))

    def end(self, reason: Exception) -> None:
        """Close it now, for this reason. Idempotent."""
        self._end(reason)
        self._transport.abort()

    def close(self) -> None:
        """Close it when everything is sent. Idempotent."""
        self._end(ConnectionError("the connection was closed"))
        self._transport.close()
        self._connection._reader = self._connection._writer = None

    # -- asyncio.Protocol ----------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._reader.feed(data)
        try:
            while not self.ended.done() and (answer := self._reader.gets()) is not _NOTHING:
                self._answered(answer)
        except Exception as error:  # noqa: BLE001 - of whoever is called, or no answer at all
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._end(exc or ConnectionError("the server closed the connection"))

    def _end(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
