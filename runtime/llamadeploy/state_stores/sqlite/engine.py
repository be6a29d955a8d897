"""A thread that runs operations on one connection, as many as are queued in one transaction.

Nothing waits for a batch to fill: an operation that comes alone is committed alone; those that
come while a commit runs share the next one. Each has a savepoint, so that one that fails takes
nothing with it; a commit that fails, fails all of its batch.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

from llamadeploy.exceptions import ConfigurationError, StoreError
from llamadeploy.state_stores.observation import StoreObserver, tell
from llamadeploy.state_stores.records import TaskRecord
from llamadeploy.state_stores.sqlite.connection import UNAVAILABLE, Location, translate
from llamadeploy.state_stores.sqlite.transaction import Tx

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

MAX_BATCH = 256
"""Operations of one transaction: bounds how long the first of them waits for the last."""


class _Operation:
    """A call and the future of its caller."""

    __slots__ = ("asked", "error", "function", "future", "name", "result")

    def __init__(
        self, function: Callable[[Tx], Any], future: asyncio.Future[Any], name: str
    ) -> None:
        self.asked = time.perf_counter()
        self.name = name
        self.function = function
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


class Engine:
    """See the module. Made, used and closed on one event loop.

    Args:
        connect: opens the connection; runs on the thread.
        writes: begin transactions for writing (a read-only engine shares one view per batch).
        notify: called on the loop, after the commit, with the ids of the tasks that changed, and
            the records of those that ended (``None``: it was forgotten).
        names: what functions are called to the observer, where that is not their own name.
    """

    def __init__(
        self,
        location: Location,
        namespace: str,
        connect: Callable[[Location], sqlite3.Connection],
        *,
        clock: Callable[[], float],
        writes: bool,
        notify: Callable[[list[str], dict[str, TaskRecord | None]], None],
        names: Mapping[Callable[..., Any], str] | None = None,
    ) -> None:
        self._location = location
        self._namespace = namespace
        self._connect = connect
        self._clock = clock
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        self._notify = notify
        self._names = names or {}
        self.observer: StoreObserver | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Operation | None] = SimpleQueue()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        kind = "writer" if writes else "reader"
        self._thread = threading.Thread(target=self._main, name=f"state-store-{kind}", daemon=True)

    async def open(self) -> None:
        """Start the thread; returns when the connection is there, or raises why it is not."""
        self._thread.start()
        await self._opened

    def submit(
        self, function: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]:
        """Run ``function(tx, ...)``; the future is done after the commit.

        Cancelling the future does not take the operation back.
        """
        future: asyncio.Future[R] = self._loop.create_future()
        if self._closing:
            future.set_exception(StoreError("the state store is closed"))
            return future
        name = self._names.get(function, function.__name__)
        self._queue.put(_Operation(lambda tx: function(tx, *args, **kwargs), future, name))
        return future

    async def close(self) -> None:
        """Finish what is queued, then close the connection. Idempotent."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.shield(self._ended)

    # -- on the thread -------------------------------------------------------------------------
    def _main(self) -> None:
        try:
            connection = self._connect(self._location)
        except BaseException as error:  # noqa: BLE001 - goes to whoever awaits open()
            self._call(_fail, self._opened, self._shown(error))
            self._call(_succeed, self._ended)
            return
        self._call(_succeed, self._opened)
        try:
            while (batch := self._next_batch()) is not None:
                self._run(connection, batch)
        finally:
            connection.close()
            self._call(_succeed, self._ended)

    def _next_batch(self) -> list[_Operation] | None:
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        try:
            while len(batch) < MAX_BATCH:
                operation = self._queue.get_nowait()
                if operation is None:
                    self._queue.put(None)  # close after this batch
                    break
                batch.append(operation)
        except Empty:
            pass
        return batch

    def _run(self, connection: sqlite3.Connection, batch: list[_Operation]) -> None:
        tx: Tx | None = None
        try:
            tx = self._transaction(connection, batch)
        except sqlite3.Error as error:
            self._abort(connection, batch, translate(self._location, error))
        except BaseException as error:  # a bug: the callers get it, the thread lives on
            logger.exception("a batch of state store operations failed")
            self._abort(connection, batch, StoreError(f"state store: {error!r}"))
        self._call(self._resolve, batch, tx)

    def _transaction(self, connection: sqlite3.Connection, batch: list[_Operation]) -> Tx:
        execute = connection.execute
        execute(self._begin)
        tx = Tx(connection, self._namespace, self._clock())
        for operation in batch:
            observed, ended = len(tx.observed), len(tx.ended)
            execute("SAVEPOINT operation")
            try:
                operation.result = operation.function(tx)
            except BaseException as error:
                if isinstance(error, sqlite3.Error) and _ends_batch(error):
                    raise
                execute("ROLLBACK TO operation")
                del tx.observed[observed:], tx.ended[ended:]
                operation.error = self._shown(error)
            execute("RELEASE operation")
        execute("COMMIT")
        return tx

    def _shown(self, error: BaseException) -> BaseException:
        if isinstance(error, sqlite3.Error):
            return translate(self._location, error)
        if isinstance(error, OverflowError):
            return ConfigurationError("a number is too large to be stored: it must be below 2^63")
        if isinstance(error, UnicodeEncodeError):
            return ConfigurationError(
                f"a text cannot be stored because it is not valid Unicode ({error.reason} at "
                f"character {error.start})"
            )
        return error

    def _abort(
        self, connection: sqlite3.Connection, batch: list[_Operation], error: StoreError
    ) -> None:
        for operation in batch:
            operation.error = operation.error or error
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            logger.exception("the transaction could not be rolled back")

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            logger.debug("the event loop of the state store is closed")

    # -- on the loop ---------------------------------------------------------------------------
    def _resolve(self, batch: list[_Operation], tx: Tx | None) -> None:
        """``tx``: what was committed, ``None`` for nothing."""
        for operation in batch:
            if operation.error is not None:
                _fail(operation.future, operation.error)
            elif not operation.future.done():
                operation.future.set_result(operation.result)
        if tx is not None and tx.touched:
            self._notify(tx.touched, dict(tx.ended))
        if self.observer is not None:
            now = time.perf_counter()
            for operation in batch:
                self.observer.operation(operation.name, now - operation.asked)
            tell(self.observer, tx.observed if tx is not None else [])


def _ends_batch(error: sqlite3.Error) -> bool:
    """Whether the transaction is lost (or should be), not only the statement."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF in UNAVAILABLE or code == sqlite3.SQLITE_CORRUPT)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
