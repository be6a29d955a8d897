"""A consumer: reads ahead up to its prefetch, gives signs of life, survives outages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from llamadeploy.exceptions import QueueError
from llamadeploy.message_queues.redis.reader import BlockingReader
from llamadeploy.message_queues.redis.topic import call_topic
from llamadeploy.message_queues.simple import wire
from llamadeploy.messages import QueueMessage
from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_pipe import RedisPipe

log = logging.getLogger(__name__)

GROUP = "all"
"""The group of competing consumers."""

SIGNS_PER_SILENCE = 3

LEAVING_SECONDS = 2.0
"""For how long a consumer tries to hand back when it leaves; later its silence does it."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


class Claim:
    """A message in the group's pending list, under our name."""

    __slots__ = ("_consumer", "_id")

    def __init__(self, consumer: RedisConsumer[Any], id_: str) -> None:
        self._consumer = consumer
        self._id = id_

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self._consumer.topic

    async def ack(self) -> None:
        """Done with it; see ``base.Delivery``. While the server is away it is remembered and made
        good for later, as long as this consumer lives."""
        await self._consumer.settle(self._id, done=True)

    async def nack(self) -> None:
        """Hand it back; see ``base.Delivery`` and :meth:`ack`."""
        await self._consumer.settle(self._id, done=False)


class RedisDelivery(Claim):
    """A message of a topic. Raises ValueError where it cannot be read."""

    __slots__ = ("message",)

    def __init__(self, consumer: RedisConsumer[Any], id_: str, fields: list[bytes]) -> None:
        super().__init__(consumer, id_)
        self.message: QueueMessage = wire.decode_message(body_of(fields))


class RedisDeadDelivery(Claim):
    """See ``base.DeadDelivery``. Takes any body."""

    __slots__ = ("body", "reason")

    def __init__(self, consumer: RedisConsumer[Any], id_: str, fields: list[bytes]) -> None:
        super().__init__(consumer, id_)
        self.body = body_of(fields)
        self.reason = b"".join(fields[3:4]).decode("utf-8", "replace") or "it could not be read"


def body_of(fields: list[bytes]) -> bytes:
    """The message; one that others wrote may have other fields."""
    return fields[1] if fields else b""


C = TypeVar("C", bound=Claim)


class RedisConsumer(Generic[C]):
    """See the module; made by ``RedisMessageQueue.consume``.

    Args:
        prefix: of the keys.
        claim: makes of a message what the consumer delivers; a ValueError makes it a dead letter.
        register: consumers that are open, to be closed with the queue.
    """

    def __init__(
        self,
        pipe: RedisPipe,
        address: RedisAddress,
        topic: str,
        prefix: str,
        *,
        claim: Callable[[RedisConsumer[Any], str, list[bytes]], C],
        prefetch: int,
        ephemeral: bool,
        broadcast: bool,
        silence: float,
        timeout: float,
        register: set[RedisConsumer[Any]],
    ) -> None:
        self.topic = topic
        self.id = uuid.uuid4().hex
        self._pipe = pipe
        self._prefix = prefix
        self._claim = claim
        self._prefetch = prefetch
        self._silence = silence
        self._register = register
        self._group = self.id if broadcast else GROUP
        self._who = {
            "group": self._group,
            "consumer": self.id,
            "broadcast": broadcast,
            "ephemeral": ephemeral,
            "silence": silence,
        }
        self._reader = BlockingReader(
            address, pipe, self._prefix, self._group, self.id, grace=timeout
        )
        self._held: set[str] = set()
        self._buffer: deque[tuple[str, list[bytes]]] = deque()
        self._unsettled: dict[str, bool] = {}
        self._sent: dict[str, asyncio.Future[None]] = {}
        self._settling: asyncio.Task[None] | None = None
        self._taking = False
        self._drained = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._jobs: list[asyncio.Task[None]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        self._register.add(self)
        try:
            await self._join()
        except BaseException:
            self._register.discard(self)
            raise
        self._jobs = [
            asyncio.create_task(self._read(), name=f"reader of {self.topic}"),
            asyncio.create_task(self._live(), name=f"signs of life to {self.topic}"),
        ]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[C]:
        return self

    async def __anext__(self) -> C:
        while True:
            while not self._buffer and not self._closed:
                self._news.clear()
                await self._news.wait()
            if self._closed:
                raise StopAsyncIteration
            id_, fields = self._buffer.popleft()
            try:
                return self._claim(self, id_, fields)
            except ValueError as error:
                await self._bury(id_, body_of(fields), str(error))

    async def resize(self, prefetch: int) -> None:
        """See ``base.Consumer``."""
        self._prefetch = prefetch
        self._room.set()

    async def settle(self, id_: str, *, done: bool) -> None:
        """Acknowledge or hand back one message; a no-op where it is not held any more."""
        if id_ not in self._held:
            return
        self._held.discard(id_)
        self._room.set()
        self._unsettled[id_] = done
        if self._settling is None:
            # All that is settled in this turn of the loop goes together.
            self._settling = asyncio.create_task(self._settle_soon())
        await asyncio.shield(self._settling)

    async def close(self) -> None:
        """Hand back what was not acknowledged, and leave. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._register.discard(self)
        self._news.set()
        for job in self._jobs[1:]:
            job.cancel()
        with contextlib.suppress(TimeoutError, QueueError):
            async with asyncio.timeout(LEAVING_SECONDS):
                # What the server gives us this very moment must not arrive after we left.
                await self._reader.stop()
                await self._settle()
                await self._call("leave")
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._reader.aclose()
        self._held.clear()
        self._buffer.clear()

    # -- reading -------------------------------------------------------------------------------
    async def _read(self) -> None:
        """Fill the buffer, for ever."""
        pause = FIRST_PAUSE
        while not self._closed:
            try:
                await self._read_once()
                pause = FIRST_PAUSE
            except QueueError as error:
                if self._closed:
                    return
                log.warning("no messages from %s for now: %s", self.topic, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(pause * 2, LONGEST_PAUSE)
                with contextlib.suppress(QueueError):
                    await self._join()

    async def _read_once(self) -> None:
        room = self._prefetch - len(self._held)
        if room <= 0 or self._taking:
            self._room.clear()
            await self._room.wait()
        elif not self._drained:
            await self._exchange(room)
        elif not self._closed:
            entries = await self._reader.wait(room)
            self._drained = len(entries) < room and not self._reader.signalled
            self._add(entries)

    async def _exchange(self, room: int) -> None:
        """Settle what is to be settled and not on its way, and take up to ``room`` messages."""
        settled = {i: acked for i, acked in self._unsettled.items() if i not in self._sent}
        if not settled and room <= 0:
            return
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent.update(dict.fromkeys(settled, sent))
        done = [id_ for id_, acked in settled.items() if acked]
        undone = [id_ for id_, acked in settled.items() if not acked]
        try:
            if room <= 0:
                await self._call("settle", done=done, undone=undone)
            else:
                await self._take(room, done, undone)
            for id_ in settled:
                self._unsettled.pop(id_, None)
        finally:
            for id_ in settled:
                self._sent.pop(id_, None)
            sent.set_result(None)

    async def _take(self, room: int, done: list[str], undone: list[str]) -> None:
        self._taking = True
        try:
            signals = self._reader.take_signals()
            taken = await self._call("take", room=room, signals=signals, done=done, undone=undone)
        finally:
            self._taking = False
            self._room.set()
        self._drained = not taken
        self._add(taken)

    def _add(self, entries: list[Any]) -> None:
        for id_, fields in entries:
            self._held.add(id_.decode())
            self._buffer.append((id_.decode(), fields))
        if entries:
            self._news.set()

    async def _bury(self, id_: str, body: bytes, reason: str) -> None:
        log.error("a message of %s is put aside: %s", self.topic, reason)
        try:
            await self._call("bury", body, id=id_, reason=reason)
        except QueueError as error:
            # Ours no more, and idle: a sign of life hands it back, and it is put aside then.
            log.warning("a message of %s is put aside later: %s", self.topic, error)
        finally:
            self._held.discard(id_)
            self._room.set()

    # -- ownership -----------------------------------------------------------------------------
    async def _join(self) -> None:
        kept = {id_.decode() for id_ in await self._call("join", held=self._mine())}
        self._forget(kept)
        await self._settle()

    def _mine(self) -> list[str]:
        return [*self._held, *self._unsettled]

    def _forget(self, kept: set[str]) -> None:
        """Only ``kept`` is still ours."""
        lost = self._held - kept
        if lost:
            log.warning("%d messages of %s went to other consumers", len(lost), self.topic)
        self._held &= kept
        self._unsettled = {i: done for i, done in self._unsettled.items() if i in kept}
        self._buffer = deque(item for item in self._buffer if item[0] in kept)
        self._room.set()

    async def _live(self) -> None:
        """Signs of life, for ever."""
        while True:
            await asyncio.sleep(self._silence / SIGNS_PER_SILENCE)
            try:
                if not await self._call("beat", held=self._mine()):
                    await self._join()
                elif self._unsettled:
                    await self._settle()
            except QueueError as error:
                log.warning("no sign of life to %s: %s", self.topic, error)

    async def _settle_soon(self) -> None:
        await asyncio.sleep(0)
        self._settling = None
        # A reader that has no room asks with this very call; one that waits goes on waiting.
        busy = self._taking or self._reader.waiting or self._closed
        others = {self._sent[id_] for id_ in self._unsettled if id_ in self._sent}
        try:
            await self._exchange(0 if busy else self._prefetch - len(self._held))
            if others:
                await asyncio.wait(others)
        except QueueError as error:
            log.warning("messages of %s are settled later: %s", self.topic, error)

    async def _settle(self) -> None:
        if self._unsettled:
            await self._exchange(0)

    async def _call(self, operation: str, body: bytes = b"", **arguments: Any) -> Any:
        request = {**self._who, **arguments}
        return await call_topic(self._pipe, self._prefix, operation, request, body)
