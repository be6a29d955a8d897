"""One connection to the server that is made again when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from llamadeploy.exceptions import ConfigurationError, QueueError, QueueUnavailableError
from llamadeploy.message_queues.rabbitmq.driver import CAUGHT, URL, Channel, aiormq, translate
from llamadeploy.message_queues.rabbitmq.joined_writes import JoinedTransport
from llamadeploy.urls import split_url

if TYPE_CHECKING:
    from aiormq.abc import AbstractConnection

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
HEARTBEAT_SECONDS = 4
"""A server that says nothing for three times as long is taken for dead. The server gives a silent
client up after twice as long and hands on what it had prefetched: with 10 s, tasks that a cut-off
worker held came back 20 s later."""

ANSWER_SECONDS = 10.0
"""How long the server may take to answer before it counts as away."""

PING_SECONDS = 2.0
"""The same where it has been silent for that long already."""

FIRST_DELAY = 0.1
MOST_DELAY = 5.0


class Backoff:
    """Growing delays with jitter, so that clients of a restarted server do not come at once."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY

    def next(self) -> float:
        """Seconds to wait this time."""
        delay, self._delay = self._delay, min(2 * self._delay, MOST_DELAY)
        return random.uniform(delay / 2, delay)  # noqa: S311 - no secret

    def reset(self) -> None:
        """It worked."""
        self._delay = FIRST_DELAY


class Link:
    """See the module. ``name`` is the server without credentials.

    Raises:
        ConfigurationError: the URL is wrong.
    """

    def __init__(self, url: str, purpose: str) -> None:
        self.name, self._url = _parse(url)
        self._purpose = purpose
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()
        self._backoff = Backoff()
        self._not_before = 0.0
        self._last_error: QueueUnavailableError | None = None
        self._closed = False

    async def channel(self, *, confirms: bool = False) -> Channel:
        """A new channel, on a new connection where there is none.

        Raises:
            QueueUnavailableError: the server cannot be reached now, or could not be a moment ago.
            QueueError: the server refuses us.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                connection = await self._connected()
                channel = await connection.channel(
                    publisher_confirms=confirms, on_return_raises=confirms
                )
                assert isinstance(channel, Channel)  # noqa: S101 - of aiormq's own connection
                return channel
        except CAUGHT as error:
            raise translate(self.name, error) from error

    async def _connected(self) -> AbstractConnection:
        async with self._lock:
            if self._closed:
                raise QueueUnavailableError("message queue: it was closed")
            if self._connection is None or self._connection.is_closed:
                await self._connect()
            assert self._connection is not None  # noqa: S101 - _connect raised otherwise
            return self._connection

    async def _connect(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._last_error is not None and now < self._not_before:
            raise QueueUnavailableError(str(self._last_error))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._connection = await aiormq.connect(
                    self._url, transport_factory=JoinedTransport()
                )
        except CAUGHT as error:
            refusal = translate(self.name, error)
            if isinstance(refusal, QueueUnavailableError):
                self._last_error = refusal
                self._not_before = asyncio.get_running_loop().time() + self._backoff.next()
            raise refusal from error
        self._last_error = None
        self._backoff.reset()
        log.debug("connected to %s to %s", self.name, self._purpose)

    async def answers(self) -> bool:
        """Whether the server still answers on this connection."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                channel = await self.channel()
                await channel.close()
        except (QueueError, *CAUGHT):
            return False
        return True

    def drop(self) -> None:
        """It does not answer: forget it; the next channel is on a new connection."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed:
            closing = asyncio.ensure_future(connection.close(TimeoutError("no answer in time")))
            closing.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed:
            try:
                async with asyncio.timeout(1):
                    await connection.close()
            except CAUGHT as error:
                log.debug("%s: %s", self.name, error)


def _parse(url: str) -> tuple[str, URL]:
    try:
        parts = split_url(url)
        shown = f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"
    except ValueError as error:
        raise ConfigurationError(f"rabbitmq's url is wrong: {error}") from None
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise ConfigurationError(
            "rabbitmq's url is wrong: it must be amqp[s]://user:password@host[:port]/[vhost]"
        )
    address = URL(url)
    if "heartbeat" not in address.query:
        address = address.update_query(heartbeat=str(HEARTBEAT_SECONDS))
    return shown, address
