"""Operations on a bounded number of connections, each run by a task of its own.

Whoever waits for an operation may go away; the operation runs on, and what it leads to (waking
followers, observing) happens all the same.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from llamadeploy.exceptions import StoreError, StoreUnavailableError
from llamadeploy.state_stores.postgresql import errors
from llamadeploy.state_stores.postgresql.connection import OPERATION_SECONDS, Connection
from llamadeploy.state_stores.postgresql.location import Location

logger = logging.getLogger(__name__)

REPEATS = 5
"""How often an operation is done again after a deadlock or serialisation failure."""


class Operation:
    """A call of a function in the database.

    Attributes:
        name: the operation's name in the contract; the function is ``op_<name>``.
        repeatable: doing it twice is as doing it once, so that a broken connection is no reason to
            fail when the next one works.
    """

    __slots__ = ("asked", "decode", "future", "name", "repeatable", "request")

    def __init__(
        self,
        name: str,
        request: bytes,
        decode: Callable[[bytes], Any],
        future: asyncio.Future[Any],
        repeatable: bool,
    ) -> None:
        self.asked = time.perf_counter()
        self.name = name
        self.request = request
        self.decode = decode
        self.future = future
        self.repeatable = repeatable


class Lanes:
    """At most ``location.pool_size`` connections; made when needed, kept until closed.

    Args:
        connect: opens a connection.
        clock: a clock instead of the server's, for tests.
        done: called with each operation that went through, and its decoded reply.
    """

    def __init__(
        self,
        location: Location,
        namespace: str,
        connect: Callable[[], Awaitable[Connection]],
        *,
        clock: Callable[[], float] | None,
        done: Callable[[Operation, Any], None],
    ) -> None:
        self._location = location
        self._namespace = namespace
        self._connect = connect
        self._clock = clock
        self._done = done
        self._pending: deque[Operation] = deque()
        self._idle: list[asyncio.Future[Operation | None]] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._closed = False

    def submit(self, operation: Operation) -> None:
        """Run it as soon as a connection is free."""
        if self._closed:
            operation.future.set_exception(StoreError("the state store is closed"))
            return
        while self._idle:
            free = self._idle.pop()
            if not free.done():
                free.set_result(operation)
                return
        if len(self._lanes) < self._location.pool_size:
            lane = asyncio.create_task(self._lane(operation), name="state store lane")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        else:
            self._pending.append(operation)

    async def close(self) -> None:
        """Finish what is queued, then close the connections. Idempotent."""
        self._closed = True
        for free in self._idle:
            if not free.done():
                free.set_result(None)
        if self._lanes:
            await asyncio.wait(set(self._lanes))

    async def _next(self) -> Operation | None:
        if self._pending:
            return self._pending.popleft()
        if self._closed:
            return None
        free: asyncio.Future[Operation | None] = asyncio.get_running_loop().create_future()
        self._idle.append(free)
        return await free

    async def _lane(self, first: Operation) -> None:
        connection: Connection | None = None
        operation: Operation | None = first
        try:
            while operation is not None:
                connection = await self._run(operation, connection)
                operation = await self._next()
        finally:
            if connection is not None:
                await _close(connection)

    async def _run(self, operation: Operation, connection: Connection | None) -> Connection | None:
        """Settle the operation's future; the connection to go on with, or ``None``."""
        for attempt in range(REPEATS):
            try:
                self._check_patience(operation)
                if connection is None or connection.is_closed():
                    connection = await self._connect()
                reply = operation.decode(await self._call(connection, operation))
            except errors.CAUGHT as error:
                broken = errors.lost_connection(error)
                if broken and connection is not None:
                    connection.terminate()
                    connection = None
                again = errors.sqlstate(error) in errors.REPEAT
                again = again or (broken and operation.repeatable and attempt == 0)
                if again and attempt < REPEATS - 1:
                    await asyncio.sleep(random.uniform(0, 0.01 * attempt))  # noqa: S311
                    continue
                _fail(operation, errors.translate(self._location, error))
            except Exception as error:  # noqa: BLE001 - goes to whoever waits; the lane lives on
                _fail(operation, error)
            else:
                if not operation.future.done():
                    operation.future.set_result(reply)
                self._done(operation, reply)
            break
        return connection

    async def _call(self, connection: Connection, operation: Operation) -> bytes:
        # Not asyncio.timeout: a cancelled call makes asyncpg open another connection to say so.
        timer = asyncio.get_running_loop().call_later(OPERATION_SECONDS, connection.terminate)
        try:
            raw = await connection.fetchval(
                f"SELECT op_{operation.name}($1, $2, $3)",
                self._namespace,
                self._clock() if self._clock is not None else None,
                operation.request,
            )
            return bytes(raw)
        finally:
            timer.cancel()

    def _check_patience(self, operation: Operation) -> None:
        if time.perf_counter() - operation.asked > OPERATION_SECONDS:
            raise StoreUnavailableError(
                f"state store {self._location.name}: no answer within {OPERATION_SECONDS:g} s"
            )


def _fail(operation: Operation, error: Exception) -> None:
    if not operation.future.done():
        operation.future.set_exception(error)
    else:
        logger.debug("%s failed after its caller had gone: %s", operation.name, error)


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=1)
    except errors.CAUGHT:
        connection.terminate()
