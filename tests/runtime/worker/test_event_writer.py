"""Order, batches, backpressure and loss of the events of one run."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llamadeploy.exceptions import StoreError, StoreUnavailableError
from llamadeploy.state_stores.records import ExecutionKey, NewEvent
from llamadeploy.worker.event_writer import BATCH_CHARACTERS, UNSENT_EVENTS, EventWriter
from llamadeploy.worker.loops import LoopThread, Mailbox

KEY = ExecutionKey("task", 1)


class Log:
    """The store's log, as slow or as absent as a test wants it."""

    def __init__(self) -> None:
        self.batches: list[list[NewEvent]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failures: list[Exception] = []
        self.current = True

    async def append_events(self, key, events):
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(list(events))
        return self.current

    @property
    def indices(self) -> list[int]:
        return [event.index for batch in self.batches for event in batch]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def stale():
    return []


@pytest.fixture
async def writer(log, stale):
    io = Mailbox(asyncio.get_running_loop())
    return EventWriter(log, KEY, io, lost=lambda: bool(stale), on_stale=lambda: stale.append(True))


@pytest.fixture
def workflow():
    thread = LoopThread("workflow")
    thread.start()
    yield thread.loop
    assert thread.stop(5.0)


def event(index: int, data: str = "{}") -> NewEvent:
    return NewEvent(index, "E", data)


async def emit(workflow, writer, indices) -> None:
    async def emitting():
        for index in indices:
            writer.emit(event(index))

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(emitting(), workflow))


async def test_a_short_run_s_events_travel_with_its_result(writer, log, workflow):
    await emit(workflow, writer, range(3))
    tail = await writer.tail()
    assert [e.index for e in tail] == [0, 1, 2]
    assert log.batches == []


async def test_the_last_event_travels_with_the_result_however_late_that_is(writer, log, workflow):
    async def emitting():
        writer.emit_last(event(0))

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(emitting(), workflow))
    await asyncio.sleep(0)  # what the writer posted to this loop, if anything, is here by now
    assert writer._timer is None
    assert [e.index for e in await writer.tail()] == [0]
    assert log.batches == []


async def test_what_comes_in_during_a_write_makes_the_next_batch(writer, log, workflow, eventually):
    log.open.clear()
    await emit(workflow, writer, [0])
    await eventually(lambda: writer._flushing is not None)
    await emit(workflow, writer, range(1, 501))
    log.open.set()
    await eventually(lambda: len(log.indices) == 501)
    assert [len(batch) for batch in log.batches] == [1, 500]
    assert log.indices == list(range(501))
    assert await writer.tail() == ()


async def test_a_run_that_is_faster_than_the_store_waits_in_emit(writer, log, workflow, eventually):
    log.open.clear()
    done = threading.Event()

    async def emitting():
        for index in range(3 * UNSENT_EVENTS):
            writer.emit(event(index))
        done.set()

    future = asyncio.run_coroutine_threadsafe(emitting(), workflow)
    await eventually(lambda: writer._emitted >= UNSENT_EVENTS)
    assert writer._emitted == UNSENT_EVENTS
    assert not done.is_set()
    log.open.set()
    await asyncio.wrap_future(future)
    tail = await writer.tail()
    assert log.indices + [e.index for e in tail] == list(range(3 * UNSENT_EVENTS))


async def test_a_batch_is_bounded_in_characters(writer, log, workflow):
    async def emitting():
        for index in range(5):
            writer.emit(event(index, "x" * BATCH_CHARACTERS))

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(emitting(), workflow))
    tail = await writer.tail()
    assert log.indices + [e.index for e in tail] == list(range(5))
    assert all(len(batch) == 1 for batch in log.batches)
    assert len(tail) <= 1


async def test_an_outage_delays_and_loses_nothing(writer, log, workflow, eventually):
    log.failures = [StoreUnavailableError("away"), StoreUnavailableError("away")]
    await emit(workflow, writer, range(10))
    await eventually(lambda: log.indices == list(range(10)))
    assert await writer.tail() == ()


async def test_a_lost_attempt_lets_a_waiting_run_go_on_and_drops_its_events(
    writer, log, workflow, eventually
):
    log.open.clear()

    async def emitting():
        for index in range(2 * UNSENT_EVENTS):
            writer.emit(event(index))

    future = asyncio.run_coroutine_threadsafe(emitting(), workflow)
    await eventually(lambda: writer._emitted == UNSENT_EVENTS)
    writer.abandon()
    await asyncio.wait_for(asyncio.wrap_future(future), 5)
    log.open.set()
    assert await writer.tail() == ()


async def test_the_store_s_word_that_the_attempt_is_stale_is_passed_on(
    writer, log, stale, workflow, eventually
):
    log.current = False
    await emit(workflow, writer, range(10))
    await eventually(lambda: stale)
    await emit(workflow, writer, range(10, 20))
    assert await writer.tail() == ()
    assert len(log.batches) == 1


async def test_refused_events_are_an_error_and_nothing_follows_the_gap(
    writer, log, workflow, eventually
):
    log.failures = [StoreError("too large")]
    await emit(workflow, writer, range(10))
    await eventually(lambda: writer.error is not None)
    await emit(workflow, writer, range(10, 20))
    assert await writer.tail() == ()
    assert log.batches == []
