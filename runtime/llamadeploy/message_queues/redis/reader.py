"""Waiting for messages on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_pipe import RedisPipe

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

BLOCK_SECONDS = 5.0
"""After this long the server answers with nothing, so that a dead connection is noticed."""


class BlockingReader:
    """``XREADGROUP BLOCK`` on a topic's stream and on its signals.

    Args:
        pipe: another connection to the same server, over which a wait is ended.
        grace: how many seconds late an answer may come.
    """

    def __init__(
        self,
        address: RedisAddress,
        pipe: RedisPipe,
        prefix: str,
        group: str,
        consumer: str,
        *,
        grace: float,
    ) -> None:
        self._address = address
        self._pipe = pipe
        self._prefix = prefix
        self._group = group
        self._consumer = consumer
        self._grace = grace
        self._connection: AbstractConnection | None = None
        self._client_id = 0
        self._signals: list[str] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped = False

    @property
    def waiting(self) -> bool:
        """Whether it waits now."""
        return not self._idle.is_set()

    @property
    def signalled(self) -> bool:
        """Whether something was handed back that nobody may have taken yet."""
        return bool(self._signals)

    def take_signals(self) -> list[str]:
        """Ids of the signals that came since the last call."""
        signals, self._signals = self._signals, []
        return signals

    async def wait(self, room: int) -> list[Any]:
        """Up to ``room`` messages; none after a signal, or after a while.

        Raises:
            QueueUnavailableError: the connection broke, or the topic was deleted.
        """
        if self._stopped:
            return []
        self._idle.clear()
        try:
            connection = await self._connected()
            streams = (self._prefix + "s", f"{self._prefix}wake:{self._group}")
            await connection.send_command(
                "XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", room,
                "BLOCK", int(BLOCK_SECONDS * 1000), "STREAMS", *streams, ">", ">",
                check_health=False,
            )  # fmt: skip
            async with asyncio.timeout(BLOCK_SECONDS + self._grace):
                reply = await connection.read_response(disable_decoding=True)
        except Exception as error:  # every kind means the same: join and read again
            await self.aclose()
            shown = f"Redis at {self._address.shown}: {error or type(error).__name__}"
            raise QueueUnavailableError(f"message queue: {shown}") from error
        finally:
            self._idle.set()
        return self._sorted(reply or [], streams[0].encode())

    def _sorted(self, reply: list[Any], stream: bytes) -> list[Any]:
        messages: list[Any] = []
        for name, entries in reply:
            if name == stream:
                messages = entries
            else:
                self._signals += [id_.decode() for id_, _ in entries]
        return messages

    async def _connected(self) -> AbstractConnection:
        if self._connection is None:
            connection = await self._address.connect(self._prefix)
            try:
                await connection.send_command("CLIENT", "ID", check_health=False)
                self._client_id = int(await connection.read_response())
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._connection = connection
        return self._connection

    async def stop(self) -> None:
        """End a wait; returns when its answer is there, so that nothing is on its way to us."""
        self._stopped = True
        while not self._idle.is_set():
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    await self._pipe.ask("CLIENT", "UNBLOCK", self._client_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._idle.wait()

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)
