"""Waiting for messages on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_link import RedisLink
from llamadeploy.redis_pipe import RedisPipe

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
        self._link: RedisLink | None = None
        self._answer: asyncio.Future[Any] | None = None
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
            link = await self._connected()
            streams = (self._prefix + "s", f"{self._prefix}wake:{self._group}")
            reply = await self._ask(
                link, "XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", room,
                "BLOCK", int(BLOCK_SECONDS * 1000), "STREAMS", *streams, ">", ">",
            )  # fmt: skip
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

    async def _connected(self) -> RedisLink:
        if self._link is None:
            link = RedisLink(await self._address.connect(self._prefix), self._answered)
            link.ended.add_done_callback(self._ended)
            try:
                self._client_id = int(await self._ask(link, "CLIENT", "ID"))
            except BaseException:
                link.close()
                raise
            self._link = link
        return self._link

    async def _ask(self, link: RedisLink, *command: Any) -> Any:
        self._answer = asyncio.get_running_loop().create_future()
        if link.ended.done():
            raise link.ended.result()
        link.send([command])
        async with asyncio.timeout(BLOCK_SECONDS + self._grace):
            return await self._answer

    def _answered(self, answer: Any) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(answer, Exception):
            self._answer.set_exception(answer)
        else:
            self._answer.set_result(answer)

    def _ended(self, ended: asyncio.Future[Exception]) -> None:
        if not ended.cancelled():
            self._answered(ended.result())

    async def stop(self) -> None:
        """End a wait; returns when its answer is there, so that nothing is on its way to us."""
        self._stopped = True
        while not self._idle.is_set():
            if self._link is not None:
                with contextlib.suppress(Exception):
                    await self._pipe.ask("CLIENT", "UNBLOCK", self._client_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._idle.wait()

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
