"""Waking followers in all processes: LISTEN and NOTIFY, and a look now and then.

A payload tells keys of changed tasks, and of those that ended the record where it is short. It is
sent after the commit, on a connection of its own, many changes at once: a NOTIFY inside the
transactions would make their commits wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.state_stores.followers import Followers, LocalFollower
from llamadeploy.state_stores.postgresql import errors
from llamadeploy.state_stores.postgresql.connection import CONNECT_SECONDS, Connection
from llamadeploy.state_stores.records import TaskRecord

logger = logging.getLogger(__name__)

RESYNC_SECONDS = 2.0
"""How late a follower may be woken when a notification got lost."""

PAYLOAD_BYTES = 7_900
"""PostgreSQL takes less than 8,000."""

LINGER_SECONDS = 0.005
"""For how long a change may wait for others. An end does not: somebody may wait for a result. What
a short task goes through before its end then travels with it, in one notification."""

PATIENT_SECONDS = 0.05
"""The same of a change that nobody waits for, such as a start: a short task's end comes first."""

SPACING_SECONDS = 0.003
"""Between two notifications, so that the ends of a busy process share them; the first one after a
pause goes out at once."""

RECORD_BYTES = 1_500
"""A longer record is read by whoever wants it."""

MOST_UNSENT = 20_000
"""Changes kept while the server is away; beyond them followers rely on the look now and then."""

UNFOLLOWED_SECONDS = 10.0
"""After this time without followers nothing is listened to (a worker follows no task)."""

MOST_BACKOFF = 5.0


class Change(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A changed task in a payload; ``ended`` without a record: read it."""

    key: str
    ended: bool = False
    record: TaskRecord | None = None


_encode = msgspec.json.Encoder().encode
_read_changes = msgspec.json.Decoder(list[Change]).decode


class Wakeups(Followers):
    """The followers of one store, woken by this process and by the others.

    Args:
        namespace: the deployment.
        connect: opens a connection that may lose a commit in a crash of the server.
        marks: tells where tasks stand, by id; what is not in the reply is unknown.
    """

    def __init__(
        self,
        namespace: str,
        connect: Callable[[], Awaitable[Connection]],
        marks: Callable[[list[str]], Awaitable[dict[str, str]]],
    ) -> None:
        super().__init__()
        self._namespace = namespace
        self._connect = connect
        self._marks = marks
        self._channel = "llamadeploy_" + _key("", namespace)
        self._task_by_key: dict[str, str] = {}
        self._seen: dict[str, str | None] = {}
        self._unsent: dict[str, bytes] = {}
        self._work = asyncio.Event()
        self._lingering: asyncio.TimerHandle | None = None
        self._announced_by = 0.0
        self._due = False  # what is unsent has waited for long enough
        self._sent_at = 0.0
        self._pid = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._listening = False
        self._connected = asyncio.Event()
        self._followed_at = time.monotonic()
        self._closed = False

    async def start(self, listens: bool = True) -> None:
        """Connect, and listen; goes on trying when the server is away."""
        if not listens:
            self._followed_at -= UNFOLLOWED_SECONDS
        self._tasks = [
            asyncio.create_task(self._talk(), name="state store wake-ups"),
            asyncio.create_task(self._look(), name="state store resync"),
        ]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connected.wait()
        except TimeoutError:
            logger.warning("state store: wake-ups are delayed: the server does not answer")

    def add(self, task_id: str, follower: LocalFollower) -> None:
        """Register."""
        super().add(task_id, follower)
        self._task_by_key[_key(self._namespace, task_id)] = task_id
        if not self._listening:
            self._work.set()

    def remove(self, task_id: str, follower: LocalFollower) -> None:
        """Forget; idempotent."""
        super().remove(task_id, follower)
        if task_id not in self._by_task:
            self._task_by_key.pop(_key(self._namespace, task_id), None)
            self._seen.pop(task_id, None)

    def changed(
        self,
        task_ids: Iterable[str],
        ended: Mapping[str, TaskRecord | None],
        linger: float = LINGER_SECONDS,
    ) -> None:
        """This process changed the tasks: wake its own followers and tell the other processes.

        Args:
            linger: for how many seconds it may wait for others, where it is no end.
        """
        ids = tuple(task_ids)
        self.wake(ids, ended)
        if len(self._unsent) < MOST_UNSENT:
            for task_id in ids:
                key = _key(self._namespace, task_id)
                if key not in self._unsent or task_id in ended:
                    self._unsent[key] = _change(key, task_id in ended, ended.get(task_id))
        if any(record is not None for record in ended.values()):
            self._announce()
        else:
            self._announce_within(linger)

    def _announce_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        by = loop.time() + seconds
        if self._lingering is not None:
            if self._announced_by <= by:
                return
            self._lingering.cancel()
        self._announced_by = by
        self._lingering = loop.call_later(seconds, self._announce)

    def _announce(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self._due = True
        self._work.set()

    async def close(self) -> None:
        """Send what is unsent and stop. Idempotent."""
        self._closed = True
        self._announce()
        talking, looking = self._tasks
        looking.cancel()
        await asyncio.wait({talking}, timeout=1)
        talking.cancel()
        await asyncio.wait(self._tasks)

    # -- the connection ------------------------------------------------------------------------
    async def _talk(self) -> None:
        delay = 0.1
        while not self._closed:
            try:
                connection = await self._connect()
                try:
                    await self._serve(connection)
                finally:
                    self._listening = False
                    connection.terminate()
                delay = 0.1
            except (*errors.CAUGHT, LlamaDeployError) as error:
                logger.warning("state store: wake-ups are delayed: %s", error)
                await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311
                delay = min(2 * delay, MOST_BACKOFF)

    async def _serve(self, connection: Connection) -> None:
        self._pid = connection.get_server_pid()
        connection.add_termination_listener(lambda _: self._work.set())
        while True:
            self._work.clear()
            await self._tune_in(connection)
            self._connected.set()
            if self._unsent and self._due:
                await self._space()
                await self._send(connection)
                continue
            if self._closed:
                return
            try:
                async with asyncio.timeout(RESYNC_SECONDS):
                    await self._work.wait()
            except TimeoutError:
                # A connection that broke silently says nothing: ask.
                await connection.execute("SELECT", timeout=CONNECT_SECONDS)
            if connection.is_closed():
                raise ConnectionError("the connection was lost")

    async def _tune_in(self, connection: Connection) -> None:
        now = time.monotonic()
        if self._by_task:
            self._followed_at = now
        wanted = now - self._followed_at < UNFOLLOWED_SECONDS
        if wanted and not self._listening:
            await connection.add_listener(self._channel, self._hear)
            self._listening = True
            self.wake_all()  # of what was said before nothing was heard
        elif not wanted and self._listening:
            self._listening = False
            await connection.remove_listener(self._channel, self._hear)

    async def _space(self) -> None:
        pause = self._sent_at + SPACING_SECONDS - time.monotonic()
        if pause > 0 and not self._closed:
            await asyncio.sleep(pause)

    async def _send(self, connection: Connection) -> None:
        sent: dict[str, bytes] = {}
        size = 2
        for key, change in self._unsent.items():
            size += len(change) + 1
            if size > PAYLOAD_BYTES:
                break
            sent[key] = change
        for key in sent:
            del self._unsent[key]
        self._due = bool(self._unsent)
        payload = f"[{b','.join(sent.values()).decode()}]"
        self._sent_at = time.monotonic()
        try:
            await connection.execute(
                "SELECT pg_notify($1, $2)", self._channel, payload, timeout=CONNECT_SECONDS
            )
        except BaseException:
            self._unsent = {**sent, **self._unsent}
            self._due = True
            raise

    def _hear(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        if pid == self._pid or not self._task_by_key:
            return
        try:
            changes = _read_changes(payload)
        except msgspec.MsgspecError as error:
            logger.warning("state store: a notification cannot be read: %s", error)
            return
        self.wake(())
        for change in changes:
            task_id = self._task_by_key.get(change.key)
            if task_id is not None:
                self.wake((task_id,), {task_id: change.record} if change.ended else {})

    # -- the look now and then -----------------------------------------------------------------
    async def _look(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            followed = list(self._by_task)
            for begin in range(0, len(followed), 500):
                part = followed[begin : begin + 500]
                try:
                    self._compare(part, await self._marks(part))
                except LlamaDeployError as error:
                    logger.debug("state store: resync failed: %s", error)
                    break

    def _compare(self, task_ids: list[str], marks: dict[str, str]) -> None:
        for task_id in task_ids:
            if task_id in self._by_task:
                mark = marks.get(task_id)
                # The first look cannot know what the follower saw before it.
                if task_id not in self._seen or self._seen[task_id] != mark:
                    self._seen[task_id] = mark
                    self.wake((task_id,))


def _change(key: str, ended: bool, record: TaskRecord | None) -> bytes:
    change = _encode(Change(key, ended, record))
    if len(change) > RECORD_BYTES:
        return _encode(Change(key, ended))
    return change


def _key(namespace: str, task_id: str) -> str:
    return blake2b(f"{namespace}\0{task_id}".encode(), digest_size=8).hexdigest()
