"""Hearing what other processes change, and covering what was missed meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import msgspec

from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_link import RedisLink
from llamadeploy.state_stores.followers import Followers
from llamadeploy.state_stores.redis import replies

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0

_decode = msgspec.msgpack.Decoder(tuple[list[str], replies.Ended]).decode


class Notifications:
    """Subscribes to a channel of changed tasks.

    A message has the sender's mark in front; those of our own are skipped, as who changes something
    through this process wakes its followers itself. After a gap everybody is woken.

    Args:
        mark: 16 characters, this process's.
        silence: seconds after which a connection is asked for a sign of life; after as long again
            without one it is taken for dead.
    """

    def __init__(
        self,
        address: RedisAddress,
        channel: str,
        *,
        mark: str,
        followers: Followers,
        silence: float,
    ) -> None:
        self._address = address
        self._channel = channel
        self._mark = mark.encode()
        self._followers = followers
        self._silence = silence
        self._heard = False
        self._subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="redis notifications")

    async def subscribed(self) -> None:
        """Return once changes are heard for the first time."""
        await asyncio.shield(self._subscribed)

    async def aclose(self) -> None:
        """Stop. Idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._subscribed.cancel()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it was: connect again
                log.warning("no notifications from %s: %s", self._address.shown, error)
                if self._subscribed.done():
                    pause = min(pause * 2, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311

    async def _listen(self) -> None:
        link = RedisLink(await self._address.connect(self._channel), self._take)
        try:
            link.send([("SUBSCRIBE", self._channel)])
            pinged = False
            while True:
                self._heard = False
                done, _ = await asyncio.wait((link.ended,), timeout=self._silence)
                if done:
                    raise link.ended.result()
                if self._heard:
                    pinged = False
                elif pinged:
                    raise TimeoutError("it does not answer")
                else:
                    pinged = True
                    link.send([("PING",)])
        finally:
            link.close()

    def _take(self, message: Any) -> None:
        if isinstance(message, Exception):
            raise message
        self._heard = True
        kind = message[0]
        if kind == b"message":
            body = message[2]
            if not body.startswith(self._mark):
                touched, ended = _decode(body[len(self._mark) :])
                self._followers.wake(touched, replies.ended_records(ended))
        elif kind == b"subscribe":
            if self._subscribed.done():
                self._followers.wake_all()
            else:
                self._subscribed.set_result(None)
