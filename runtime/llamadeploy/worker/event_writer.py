"""From a run's events to the store's log, in order and in batches."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from llamadeploy.exceptions import StoreError, StoreUnavailableError
from llamadeploy.state_stores.records import ExecutionKey, NewEvent
from llamadeploy.worker.backoff import persist
from llamadeploy.worker.loops import Mailbox

LINGER = 0.002
"""Seconds that a first event waits for company. The few events of a short run then travel with the
result, as a stream's last event does in any case; a reader does not notice."""

BATCH_EVENTS = 1000
BATCH_CHARACTERS = 1 << 20
UNSENT_EVENTS = 4096
UNSENT_CHARACTERS = 16 << 20
"""From either of these on a run that emits has to wait: about four batches on their way."""


class AppendStore(Protocol):
    """What the writer needs of a store."""

    async def append_events(self, key: ExecutionKey, events: Sequence[NewEvent]) -> bool:
        """See :class:`llamadeploy.state_stores.base.ExecutionStore`."""
        ...


class EventWriter:
    """The buffer between one run, which emits on the workflow loop, and the store.

    A batch is whatever came in while the one before it was written. When too much is unsent,
    ``emit`` blocks the workflow loop until there is room again (all runs of the process go slower
    then): the library's own queue of events has no bound, so nothing gentler would hold a run
    back. Where the workflow loop is the caller's own (``may_block=False``) it does not block,
    because the control plane may live on that very loop.

    Args:
        io: calls on the I/O loop.
        lost: asked when the store cannot be reached: whether to give up.
        on_stale: called on the I/O loop when the store says that the attempt is not current.
        holding: keep all events in memory, until :meth:`lead`.
    """

    def __init__(
        self,
        store: AppendStore,
        key: ExecutionKey,
        io: Mailbox,
        *,
        lost: Callable[[], bool],
        on_stale: Callable[[], None],
        may_block: bool = True,
        holding: bool = False,
    ) -> None:
        self._store = store
        self._key = key
        self._io = io
        self._lost = lost
        self._on_stale = on_stale
        self._may_block = may_block
        self._holding = holding
        self.error: StoreError | None = None
        """Why the store refused events; the attempt cannot succeed any more."""
        self._unsent: deque[NewEvent] = deque()
        self._emitted = self._emitted_characters = 0
        self._written = self._written_characters = 0
        self._announced = False
        self._closed = False
        self._room = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    # -- workflow loop -------------------------------------------------------------------------
    def emit(self, event: NewEvent) -> None:
        """Take an event; an attempt that is lost has its events dropped."""
        if self._closed:
            return
        self._take_in(event)
        if not self._announced:
            self._announced = True
            self._io.post(self._arrived)
        if self._may_block and not self._holding and self._full():
            self._wait_for_room()

    def emit_last(self, event: NewEvent) -> None:
        """Take the last event. Nobody is woken for it: :meth:`tail` follows."""
        if not self._closed:
            self._take_in(event)

    def _take_in(self, event: NewEvent) -> None:
        self._unsent.append(event)
        self._emitted += 1
        self._emitted_characters += len(event.data)

    def _full(self, share: int = 1) -> bool:
        return (
            self._emitted - self._written >= UNSENT_EVENTS // share
            or self._emitted_characters - self._written_characters >= UNSENT_CHARACTERS // share
        )

    def _wait_for_room(self) -> None:
        self._room.clear()
        # Looked at again after clearing: the room may have been made in between.
        while self._full() and not self._closed:
            self._room.wait()
            self._room.clear()

    # -- I/O loop ------------------------------------------------------------------------------
    def _arrived(self) -> None:
        self._announced = False
        if self._holding:
            return
        if self._flushing is not None or self._timer is not None or not self._unsent:
            return
        self._timer = self._io.loop.call_later(LINGER, self._start_flushing)

    def _start_flushing(self) -> None:
        self._timer = None
        if self._unsent and not self._closed:
            self._flushing = self._io.loop.create_task(self._flush(0))

    def lead(self, key: ExecutionKey) -> None:
        """The events count from now on, as those of the attempt ``key``."""
        self._key = key
        self._holding = False
        self._arrived()

    async def _flush(self, leave: int) -> None:
        """Write until at most ``leave`` events are unsent."""
        try:
            while len(self._unsent) > leave and not self._closed:
                if not await self._write(self._take()):
                    self.abandon()
                    self._on_stale()
        except StoreUnavailableError:
            self.abandon()
        except StoreError as error:
            # Refused for good. What follows would leave a gap, so nothing does.
            self.error = error
            self.abandon()
        finally:
            self._flushing = None

    def _take(self) -> list[NewEvent]:
        batch: list[NewEvent] = []
        characters = 0
        while self._unsent and len(batch) < BATCH_EVENTS and characters < BATCH_CHARACTERS:
            event = self._unsent.popleft()
            characters += len(event.data)
            batch.append(event)
        return batch

    async def _write(self, batch: list[NewEvent]) -> bool:
        current = await persist(
            lambda: self._store.append_events(self._key, batch), give_up=self._lost
        )
        self._written += len(batch)
        self._written_characters += sum(len(event.data) for event in batch)
        if not self._full(share=2):
            self._room.set()
        return current

    async def tail(self) -> tuple[NewEvent, ...]:
        """The run has ended: write all but the last batch, and return that one for the result."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            # Its batch must be in the log before the result closes the stream.
            await self._flushing
        while len(self._unsent) > BATCH_EVENTS or self._unsent_characters() > BATCH_CHARACTERS:
            if self._closed or len(self._unsent) == 1:
                break
            await self._flush(len(self._unsent) - 1)
        self._closed = True
        self._room.set()
        return tuple(self._unsent)

    def _unsent_characters(self) -> int:
        return self._emitted_characters - self._written_characters

    def abandon(self) -> None:
        """Nothing of this attempt counts any more: drop what is unsent and what still comes."""
        self._closed = True
        self._unsent.clear()
        self._room.set()
