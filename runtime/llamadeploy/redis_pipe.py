"""One connection to Redis that many callers share: what they ask in one turn goes out together.

Nobody waits for a batch to fill, and nobody waits for the answers to others before asking. The
connection is made when the first caller needs it, and again after it broke.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_link import RedisLink

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

ANSWER_SECONDS = 5.0
"""A server that owes an answer for this long is taken for away."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect: doubled each time, with jitter."""


class RedisAway(Exception):
    """The server cannot be reached, or cannot work, now. What was asked may have been done."""


class RedisRefused(Exception):
    """The server refused: a wrong login, a missing right, a command it does not know."""


WRITE, READ, FREE = "", "_read", "_free"
"""Kinds of calls: a server that is full refuses the first, and serves those that only read and
those that let work come to its end."""


class Library:
    """Lua code that servers keep: as a function from Redis 7 on, before that as a script.

    Its name has a hash of its text, so that releases do not disturb each other.

    Args:
        purpose: the beginning of its name.
        text: defines ``local function run(keys, args)``. What else it defines is made once by a
            server that has functions, and by each call else.
    """

    def __init__(self, purpose: str, text: str) -> None:
        digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - names, guards nothing
        self.name = f"llamadeploy_{purpose}_{digest[:16]}"
        self.function = f"#!lua name={self.name}\n{text}\n" + "".join(
            f"redis.register_function{{function_name='{self.name}{kind}', callback=run, "
            f"flags={{{flags}}}}}\n"
            for kind, flags in ((WRITE, ""), (READ, "'no-writes'"), (FREE, "'allow-oom'"))
        )
        self.script = f"{text}\nreturn run(KEYS, ARGV)\n"
        self.script_hash = hashlib.sha1(self.script.encode()).hexdigest()  # noqa: S324 - Redis's


class _Pause:
    """Growing pauses between attempts."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def next(self) -> float:
        pause, self._next = self._next, min(self._next * 2, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


class _Call:
    """A command and the future of its caller; one that calls a library has that too."""

    __slots__ = ("asked", "command", "future", "library")

    def __init__(
        self,
        command: tuple[Any, ...],
        future: asyncio.Future[Any],
        library: Library | None = None,
    ) -> None:
        self.command = command
        self.future = future
        self.library = library
        self.asked = 0.0


class RedisPipe:
    """See the module. Belongs to the event loop it is first used on.

    Args:
        key: which server of a Cluster: the one that has this key.
        timeout: seconds a server may owe an answer.
    """

    def __init__(self, address: RedisAddress, key: str, *, timeout: float = ANSWER_SECONDS) -> None:
        self._address = address
        self._key = key
        self._timeout = timeout
        self._waiting: list[_Call] = []
        self._owed: deque[_Call] = deque()
        self._work = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._link: RedisLink | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._refusal: type[Exception] = Exception
        self._closed = False
        self._functions = True

    def ask(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command; the future has its answer.

        Its errors are :class:`RedisAway` and :class:`RedisRefused`. Cancelling the future does not
        take the command back.
        """
        return self._enqueue(command, None)

    def run(
        self, library: Library, kind: str, keys: tuple[str, ...], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Call a library; see :meth:`ask`.

        Args:
            kind: ``WRITE``, ``READ`` or ``FREE``.
        """
        if self._functions:
            what = ("FCALL", library.name + kind)
        else:
            what = ("EVALSHA", library.script_hash)
        return self._enqueue((*what, len(keys), *keys, *arguments), library)

    async def aclose(self) -> None:
        """Close the connection; who still waits gets :class:`RedisAway`. Idempotent."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._fail(RedisAway("the connection was closed"))

    def _enqueue(self, command: tuple[Any, ...], library: Library | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            future.set_exception(RedisAway("the connection was closed"))
            return future
        self._send_soon(_Call(command, future, library))
        if self._running is None:
            self._running = loop.create_task(self._run(), name="redis pipe")
        return future

    def _send_soon(self, *calls: _Call) -> None:
        """All that is asked in this turn of the loop goes together."""
        self._waiting += calls
        if self._link is None:
            self._work.set()
        elif len(self._waiting) == len(calls):
            asyncio.get_running_loop().call_soon(self._send)

    async def _run(self) -> None:
        pause = _Pause()
        while True:
            await self._work.wait()
            try:
                connection = await self._address.connect(self._key)
            except Exception as error:  # noqa: BLE001 - every kind goes to who waits
                self._fail(_translated(error, self._address))
                await asyncio.sleep(pause.next())
                continue
            pause = _Pause()
            await self._serve(connection)

    async def _serve(self, connection: AbstractConnection) -> None:
        """Use the connection until it breaks."""
        from redis.exceptions import RedisError

        self._refusal = RedisError
        link = RedisLink(connection, self._answered)
        self._link = link
        self._watch()
        self._send()
        try:
            error = await link.ended
        finally:
            self._link = None
            self._unwatch()
            link.close()
        away = _translated(error, self._address)
        # What was not sent yet goes to the next connection.
        owed, self._owed = self._owed, deque()
        for call in owed:
            _reject(call, away)
        if not self._waiting:
            self._work.clear()

    def _send(self) -> None:
        if self._link is None or not self._waiting:
            return
        calls, self._waiting = self._waiting, []
        now = asyncio.get_running_loop().time()
        for call in calls:
            call.asked = now
        self._owed.extend(calls)
        self._link.send(call.command for call in calls)

    def _answered(self, answer: Any) -> None:
        call = self._owed.popleft()
        if not isinstance(answer, self._refusal):
            if not call.future.done():
                call.future.set_result(answer)
        elif call.library is None or not self._teach(call, call.library, str(answer)):
            _reject(call, _translated(answer, self._address))
            if _ends_connection(answer):
                raise answer

    def _teach(self, call: _Call, library: Library, refusal: str) -> bool:
        """Send the library's text where the server does not know it; whether that was it."""
        rest = call.command[2:]
        if "unction not found" in refusal:
            loading = _Call(("FUNCTION", "LOAD", "REPLACE", library.function), _forgotten())
            self._send_soon(loading, call)
        elif "unknown command" in refusal and call.command[0] == "FCALL":
            self._functions = False
            call.command = ("EVALSHA", library.script_hash, *rest)
            self._send_soon(call)
        elif "No matching script" in refusal:
            call.command = ("EVAL", library.script, *rest)
            self._send_soon(call)
        else:
            return False
        return True

    def _watch(self) -> None:
        """Ends the connection when the server owes an answer for too long."""
        loop = asyncio.get_running_loop()
        oldest = self._owed[0].asked if self._owed else loop.time()
        remaining = oldest + self._timeout - loop.time()
        if remaining > 0:
            self._watcher = loop.call_later(max(remaining, 0.05), self._watch)
        elif self._link is not None:
            self._link.end(TimeoutError(f"no answer for {self._timeout:g} s"))

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    def _fail(self, error: Exception) -> None:
        calls = [*self._owed, *self._waiting]
        self._owed.clear()
        self._waiting.clear()
        self._work.clear()
        for call in calls:
            _reject(call, error)


def _forgotten() -> asyncio.Future[Any]:
    """The future of a command whose failure shows in the next one's."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _reject(call: _Call, error: Exception) -> None:
    if not call.future.done():
        call.future.set_exception(error)


_AWAY = ("OOM", "MISCONF", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY",
         "NOREPLICAS", "UNKILLABLE", "MOVED", "ASK")  # fmt: skip
"""First words of answers that may be others soon."""


def _translated(error: BaseException, address: RedisAddress) -> RedisAway | RedisRefused:
    from redis import exceptions

    where = f"Redis at {address.shown}"
    refused = (exceptions.AuthenticationError, exceptions.AuthorizationError,
               exceptions.NoPermissionError)  # fmt: skip
    if isinstance(error, refused):
        return RedisRefused(f"{where}: {error}")
    if isinstance(error, exceptions.ResponseError) and not _passing(error):
        return RedisRefused(f"{where}: {error}")
    if isinstance(error, TimeoutError) and not str(error):
        return RedisAway(f"{where} does not answer")
    return RedisAway(f"{where}: {str(error) or type(error).__name__}")


def _passing(error: Exception) -> bool:
    from redis import exceptions

    kinds = (exceptions.BusyLoadingError, exceptions.ReadOnlyError, exceptions.OutOfMemoryError,
             exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError,
             exceptions.ClusterDownError, exceptions.MasterDownError)  # fmt: skip
    return isinstance(error, kinds) or str(error).startswith(_AWAY)


def _ends_connection(error: Exception) -> bool:
    """Whether the connection is of no use, or another server may be the right one by now."""
    from redis import exceptions

    if not isinstance(error, exceptions.ResponseError):
        return True
    kinds = (exceptions.ReadOnlyError, exceptions.MovedError, exceptions.AskError,
             exceptions.ClusterDownError, exceptions.MasterDownError)  # fmt: skip
    return isinstance(error, kinds)
