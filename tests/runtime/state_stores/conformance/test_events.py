"""The event log, and waking its readers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest


async def test_the_log_is_read_from_any_point(bench: Any, events: Any) -> None:
    run = await bench.running()
    assert await bench.store.append_events(run.key, events(0, 4))
    assert await bench.store.append_events(run.key, events(5, 9))
    page = await bench.store.read_log("t", 0, 100)
    assert [(e.seq, e.attempt, e.index) for e in page.events] == [(n + 1, 1, n) for n in range(10)]
    assert (page.events[0].type, page.events[0].data) == ("Progress", '{"n": 0}')
    assert (page.state, page.attempt, page.bases) == ("running", 1, {1: 0})
    page = await bench.store.read_log("t", 7, 2)
    assert [event.seq for event in page.events] == [8, 9]
    assert (await bench.store.read_log("t", 10, 5)).events == ()
    assert (await bench.store.read_log("t", 10**30, 5)).events == ()


async def test_repeated_indices_are_skipped(bench: Any, events: Any) -> None:
    run = await bench.running()
    await bench.store.append_events(run.key, events(0, 4))
    before = (await bench.store.read_log("t", 0, 100)).events
    assert await bench.store.append_events(run.key, events(3, 6))
    page = await bench.store.read_log("t", 0, 100)
    assert page.events[:5] == before, "a reader that saw them does not see them again"
    assert [event.index for event in page.events] == list(range(7))
    seqs = [event.seq for event in page.events]
    assert seqs == sorted(set(seqs))


async def test_the_result_carries_the_tail_and_the_count(bench: Any, events: Any) -> None:
    run = await bench.running()
    await bench.store.append_events(run.key, events(0, 4))
    assert (await bench.record()).event_count == 5
    await bench.finish(run.key, events=events(4, 9))
    page = await bench.store.read_log("t", 0, 100)
    assert (page.state, page.event_count, len(page.events)) == ("succeeded", 10, 10)
    assert (await bench.record()).event_count == 10
    assert not await bench.store.append_events(run.key, events(10, 10)), "the stream is closed"


async def test_a_second_attempt_is_told_apart(bench: Any, events: Any) -> None:
    run = await bench.running()
    await bench.store.append_events(run.key, events(0, 4))
    bench.clock.advance(11)
    second = await bench.start()
    page = await bench.store.read_log("t", 0, 100)
    assert (page.attempt, page.bases, page.event_count) == (2, {1: 0, 2: 0}, 0)
    await bench.finish(second.key, events=events(0, 1))
    page = await bench.store.read_log("t", 0, 100)
    assert [(e.attempt, e.index) for e in page.events] == [(1, n) for n in range(5)] + [
        (2, 0),
        (2, 1),
    ]
    assert page.event_count == 2


async def test_a_resumed_attempt_inherits(bench: Any, events: Any) -> None:
    run = await bench.running()
    await bench.park(run.key, next_index=3, events=events(0, 2))
    await bench.store.append_inbound("t", "e")
    resumed = await bench.start()
    page = await bench.store.read_log("t", 0, 100)
    assert (page.bases, page.event_count) == ({1: 0, 2: 3}, 3)
    await bench.finish(resumed.key)
    assert (await bench.record()).event_count == 3


async def test_foreign_events_before_any_attempt(bench: Any, events: Any) -> None:
    await bench.create()
    assert await bench.store.append_foreign_event("t", events(0, 0)[0])
    assert await bench.store.append_foreign_event("t", events(0, 0)[0])
    assert not await bench.store.append_foreign_event("nobody", events(0, 0)[0])
    page = await bench.store.read_log("t", 0, 10)
    assert (page.attempt, page.bases, len(page.events)) == (0, {0: 0}, 1)


async def test_a_follower_is_woken_by_every_change(bench: Any, events: Any) -> None:
    await bench.create()
    with bench.store.follow("t") as follower:
        assert not await follower.changed(0)
        run = await bench.start()
        assert await follower.changed(5)
        await bench.store.append_events(run.key, events(0, 0))
        assert await follower.changed(5)
        assert not await follower.changed(0), "one change, one waking"
        await bench.park(run.key)
        assert await follower.changed(5)
        await bench.store.append_inbound("t", "e")
        assert await follower.changed(5)
        await bench.store.cancel("t", "why")
        assert await follower.changed(5)
        assert not await follower.changed(0)


async def test_a_follower_waits_without_polling(bench: Any, events: Any) -> None:
    run = await bench.running()
    with bench.store.follow("t") as one, bench.store.follow("t") as two:
        waiting = [asyncio.ensure_future(f.changed(60)) for f in (one, two)]
        await asyncio.sleep(0)
        started = time.monotonic()
        await bench.finish(run.key, events=events(0, 0))
        assert await asyncio.gather(*waiting) == [True, True]
        assert time.monotonic() - started < 5


async def test_a_follower_learns_the_end(bench: Any, events: Any) -> None:
    """Where the store tells the record of a finished task it is the one that it has."""
    run = await bench.running()

    async def ended(follower: Any) -> Any:
        while True:
            told = await follower.end(5)
            if told is not None:
                assert told == await bench.store.get_task("t")
                return told
            record = await bench.store.get_task("t")
            if record is None or record.state.terminal:
                return record

    with bench.store.follow("t") as follower:
        waiting = asyncio.ensure_future(ended(follower))
        await bench.store.append_events(run.key, events(0, 0))
        await bench.finish(run.key, events=events(1, 1))
        record = await waiting
        assert (record.state.value, record.event_count, record.attempt) == ("succeeded", 2, 1)


async def test_a_follower_learns_that_the_task_is_gone(bench: Any) -> None:
    run = await bench.running()
    session = run.session_id
    with bench.store.follow("t") as follower:
        await bench.store.delete_session(session)
        assert await follower.end(5) is None
        assert await bench.store.get_task("t") is None


async def test_a_follower_times_out_and_sees_only_its_task(bench: Any) -> None:
    await bench.create("a")
    with bench.store.follow("a") as follower:
        await bench.create("b")
        assert not await follower.changed(0.01)


@pytest.mark.defect(2)
async def test_a_reader_never_misses_the_tail(bench: Any, events: Any) -> None:
    """Read, wait, read: whatever the writer's pace is, the reader ends with all of it."""
    run = await bench.running()

    async def read() -> list[int]:
        seen: list[int] = []
        after = 0
        with bench.store.follow("t") as follower:
            while True:
                page = await bench.store.read_log("t", after, 7)
                seen += [event.index for event in page.events]
                after = page.events[-1].seq if page.events else after
                if not page.events and page.state.terminal:
                    return seen
                if not page.events:
                    assert await follower.changed(20)

    readers = [asyncio.ensure_future(read()) for _ in range(5)]
    for first in range(0, 200, 5):
        await bench.store.append_events(run.key, events(first, first + 4))
    await bench.finish(run.key, events=events(200, 202))
    assert await asyncio.gather(*readers) == [list(range(203))] * 5
