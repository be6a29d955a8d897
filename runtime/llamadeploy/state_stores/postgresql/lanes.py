"""Operations on a bounded number of connections, each run by a task of its own.

An operation that comes alone is done at once and alone; those that come while the connections are
busy share the next transaction. Where they have had company the next ones wait some milliseconds
for more: a transaction of five costs little more than one of one, for the server and for us.

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

from llamadeploy.exceptions import LlamaDeployError, StoreError, StoreUnavailableError
from llamadeploy.state_stores.postgresql import errors
from llamadeploy.state_stores.postgresql.connection import OPERATION_SECONDS, Connection
from llamadeploy.state_stores.postgresql.location import Location

logger = logging.getLogger(__name__)

BATCHED = frozenset(
    {
        "append_events",
        "create_task",
        "finish",
        "get_input",
        "get_session",
        "get_task",
        "park",
        "read_inbound",
        "read_log",
        "release",
        "start",
    }
)
"""Operations that ``run_batch`` knows: short ones, that may be repeated."""

GROUPED = frozenset({"create_task", "start", "finish"})
"""Those that it does in groups, with few statements for each. One alone is a group, too: it costs
no more than by a function of its own, and what nearly every task goes through exists once."""

MAX_BATCH = 32
"""Operations of one transaction: bounds how long the first of them waits for the last."""

CROWD = 8
"""So many operations must wait per busy connection before a third one is opened: few connections
with large batches do more than many with small ones."""

SHARE_SECONDS = 0.02
"""For so long at most operations wait for a short transaction that is under way, to share the next
one; it may itself wait for a lock of another process."""

SPACING_SECONDS = 0.003
"""How long after the begin of a transaction the next one begins, for each operation that it has: so
that a busy process comes to large ones, and one that only ever has few never waits ..."""

MOST_SPACING_SECONDS = 0.01
"""... and for no longer than this; or until there are"""

ENOUGH = 16
"""operations."""

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
        self._idle: list[asyncio.Future[None]] = []
        self._dispatching = False
        self._short = 0
        self._sharing: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._resting: asyncio.TimerHandle | None = None
        self._lanes: set[asyncio.Task[None]] = set()
        self._closed = False

    def submit(self, operation: Operation) -> None:
        """Run it as soon as a connection is free."""
        if self._closed:
            operation.future.set_exception(StoreError("the state store is closed"))
            return
        self._pending.append(operation)
        if not self._dispatching:
            self._dispatching = True
            # After everybody else of this turn of the event loop has asked, too.
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        if not self._pending:
            return
        rest = self._rest()
        if rest > 0:
            if self._resting is None:
                loop = asyncio.get_running_loop()
                self._resting = loop.call_later(rest, self._rested)
            return
        if self._short and len(self._pending) < CROWD and not self._closed:
            # Fewer and larger transactions: whoever is at it takes these next.
            if self._sharing is None:
                loop = asyncio.get_running_loop()
                self._sharing = loop.call_later(SHARE_SECONDS, self._share_no_more)
            return
        self._hand_out()

    def _rest(self) -> float:
        """For how many seconds what is pending waits for company."""
        if self._closed or self._pending[0].name not in BATCHED or len(self._pending) >= ENOUGH:
            return 0.0
        return self._not_before - asyncio.get_running_loop().time()

    def _rested(self) -> None:
        self._resting = None
        if not self._dispatching:
            self._dispatch()

    def _share_no_more(self) -> None:
        self._sharing = None
        if self._pending:
            self._hand_out()

    def _hand_out(self) -> None:
        if self._idle:
            free = self._idle.pop()
            if not free.done():
                free.set_result(None)
            return
        busy = len(self._lanes)
        if busy < min(2, self._location.pool_size) or (
            busy < self._location.pool_size and len(self._pending) >= CROWD * busy
        ):
            lane = asyncio.create_task(self._lane(), name="state store lane")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def close(self) -> None:
        """Finish what is queued, then close the connections. Idempotent."""
        self._closed = True
        for timer in (self._sharing, self._resting):
            if timer is not None:
                timer.cancel()
        self._dispatch()
        while self._idle:
            free = self._idle.pop()
            if not free.done():
                free.set_result(None)
        if self._lanes:
            await asyncio.wait(set(self._lanes))

    async def _lane(self) -> None:
        connection: Connection | None = None
        try:
            while (batch := await self._next()) is not None:
                short = batch[0].name in BATCHED
                self._short += short
                try:
                    if len(batch) > 1:
                        connection = await self._run_batch(batch, connection)
                    else:
                        connection = await self._run(batch[0], connection)
                finally:
                    self._short -= short
        finally:
            if connection is not None:
                await _close(connection)

    async def _next(self) -> list[Operation] | None:
        while not self._pending or self._rest() > 0:
            if self._closed:
                return None
            if self._pending:
                self._dispatch()  # which wakes a lane when the time has come
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(free)
            await free
        batch = [self._pending.popleft()]
        if batch[0].name in BATCHED:
            while self._pending and len(batch) < MAX_BATCH and self._pending[0].name in BATCHED:
                batch.append(self._pending.popleft())
        self._not_before = 0.0
        if len(batch) > 1:
            spacing = min(SPACING_SECONDS * len(batch), MOST_SPACING_SECONDS)
            self._not_before = asyncio.get_running_loop().time() + spacing
        if self._pending:
            self._dispatch()
        return batch

    async def _run_batch(
        self, batch: list[Operation], connection: Connection | None
    ) -> Connection | None:
        """All in one transaction, or where that fails one by one."""
        try:
            self._check_patience(batch[0])
            if connection is None or connection.is_closed():
                connection = await self._connect()
            replies = await self._call_batch(connection, batch)
        except errors.CAUGHT as error:
            if errors.lost_connection(error) and connection is not None:
                connection.terminate()
                connection = None
        except LlamaDeployError as error:
            logger.debug("a batch of %d operations is done one by one: %s", len(batch), error)
        else:
            for operation, reply in zip(batch, replies, strict=True):
                self._settle(operation, reply)
            return connection
        for operation in batch:
            connection = await self._run(operation, connection)
        return connection

    def _settle(self, operation: Operation, raw: bytes) -> None:
        try:
            reply = operation.decode(raw)
        except Exception as error:  # noqa: BLE001 - goes to whoever waits; the lane lives on
            _fail(operation, error)
            return
        if not operation.future.done():
            operation.future.set_result(reply)
        self._done(operation, reply)

    async def _run(self, operation: Operation, connection: Connection | None) -> Connection | None:
        """Settle the operation's future; the connection to go on with, or ``None``."""
        for attempt in range(REPEATS):
            try:
                self._check_patience(operation)
                if connection is None or connection.is_closed():
                    connection = await self._connect()
                raw = await self._call(connection, operation)
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
                self._settle(operation, raw)
            break
        return connection

    async def _call(self, connection: Connection, operation: Operation) -> bytes:
        if operation.name in GROUPED:
            return (await self._call_batch(connection, [operation]))[0]
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

    async def _call_batch(self, connection: Connection, batch: list[Operation]) -> list[bytes]:
        timer = asyncio.get_running_loop().call_later(OPERATION_SECONDS, connection.terminate)
        try:
            rows = await connection.fetch(
                "SELECT run_batch($1, $2, $3, $4)",
                self._namespace,
                self._clock() if self._clock is not None else None,
                [operation.name for operation in batch],
                [operation.request for operation in batch],
            )
            return [row[0] for row in rows]
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
