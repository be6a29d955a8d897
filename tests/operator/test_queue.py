"""The reconcile queue: order, deduplication, retries; on the clock of the event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from llamadeploy_operator.queue import Backoff, ReconcileQueue

SOON = Backoff(first=0.01, limit=0.04, jitter=0.0)


@asynccontextmanager
async def running(queue: ReconcileQueue[str]) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_key_that_waits_is_queued_once() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    queue = ReconcileQueue(work, concurrency=1)
    for key in ("a", "b", "a", "a", "b"):
        queue.add(key)
    assert queue.depth() == 2
    async with running(queue):
        await until(lambda: queue.depth() == 0 and queue.busy() == 0)
    assert seen == ["a", "b"]


async def test_a_key_never_runs_twice_at_once_and_sees_the_last_change() -> None:
    state, seen, at_once = 0, [], 0
    running_now = 0

    async def work(key: str) -> None:
        nonlocal running_now, at_once
        running_now += 1
        at_once = max(at_once, running_now)
        await asyncio.sleep(0.005)
        seen.append(state)
        running_now -= 1

    queue = ReconcileQueue(work, concurrency=8)
    async with running(queue):
        for state in range(1, 51):  # noqa: B007 - read by the worker
            queue.add("a")
            await asyncio.sleep(0.001)
        await until(lambda: queue.depth() == 0 and queue.busy() == 0)
    assert at_once == 1
    assert seen[-1] == 50
    assert len(seen) < 50


async def test_keys_run_side_by_side_up_to_the_limit() -> None:
    running_now, most, release = 0, 0, asyncio.Event()

    async def work(key: str) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await release.wait()
        running_now -= 1

    queue = ReconcileQueue(work, concurrency=3)
    async with running(queue):
        for number in range(10):
            queue.add(str(number))
        await until(lambda: queue.busy() == 3 and queue.depth() == 7)
        release.set()
        await until(lambda: queue.depth() == 0 and queue.busy() == 0)
    assert most == 3


async def test_a_failing_key_is_retried_with_growing_delays_and_holds_up_nobody() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    others: list[str] = []

    async def work(key: str) -> None:
        if key == "bad":
            times.append(loop.time())
            if len(times) < 5:
                raise RuntimeError("not yet")
        else:
            others.append(key)

    queue = ReconcileQueue(work, concurrency=1, backoff=SOON)
    async with running(queue):
        queue.add("bad")
        queue.add("good")
        await until(lambda: len(times) == 5)
        # A success forgets the failures: the next delay is the first again.
        queue.add("bad")
        await until(lambda: len(times) == 6)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[:4])]
    assert all(gap >= least for gap, least in zip(gaps, (0.01, 0.02, 0.04), strict=True)), gaps
    assert others == ["good"]


def test_the_delay_doubles_to_the_limit_and_is_spread() -> None:
    delays = [Backoff(1.0, 60.0, 0.0).delay(failures) for failures in (1, 2, 3, 4, 5, 6, 7, 1000)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    spread = {Backoff(1.0, 60.0, 0.2).delay(3) for _ in range(50)}
    assert len(spread) > 40
    assert all(4.0 <= delay <= 4.8 for delay in spread)


async def test_of_several_delays_the_earliest_counts() -> None:
    loop = asyncio.get_running_loop()
    seen: list[float] = []

    async def work(key: str) -> None:
        seen.append(loop.time())

    queue = ReconcileQueue(work)
    async with running(queue):
        started = loop.time()
        queue.add("a", delay=300)
        queue.add("a", delay=0.05)
        queue.add("a", delay=200)
        await until(lambda: bool(seen))
        assert 0.05 <= seen[0] - started < 100
        assert queue.delayed() == 0
        queue.add("a", delay=300)
        queue.add("a")
        await until(lambda: len(seen) == 2)
        assert queue.delayed() == 0


async def test_the_worker_says_when_to_look_again() -> None:
    seen: list[str] = []

    async def work(key: str) -> float | None:
        seen.append(key)
        return 0.01 if len(seen) < 3 else None

    queue = ReconcileQueue(work)
    async with running(queue):
        queue.add("a")
        await until(lambda: len(seen) == 3)
        assert (queue.depth(), queue.delayed()) == (0, 0)


async def test_what_is_no_exception_ends_the_queue() -> None:
    class Stop(BaseException):
        pass

    async def work(key: str) -> None:
        raise Stop

    queue: ReconcileQueue[str] = ReconcileQueue(work, concurrency=2)
    queue.add("a")
    worker: Callable[[], Awaitable[None]] = queue.run
    try:
        async with asyncio.timeout(20):
            await worker()
    except BaseExceptionGroup as group:
        assert group.subgroup(Stop) is not None
    else:
        raise AssertionError("it went on")


async def test_patient_keys_let_others_pass_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    queue = ReconcileQueue(work, concurrency=1)
    queue.add("old", patient=True)
    queue.add("patient", patient=True)
    queue.add("hurried", patient=True)
    queue.add("first")
    queue.add("hurried")
    queue.add("hurried", patient=True)
    assert queue.depth() == 4
    async with running(queue):
        await until(lambda: len(seen) == 4)
    assert seen == ["first", "hurried", "old", "patient"]
    seen.clear()
    # One that has waited long enough is before those that came after that.
    monkeypatch.setattr("llamadeploy_operator.queue.PATIENCE", -1.0)
    queue.add("new")
    queue.add("long ago", patient=True)
    async with running(queue):
        await until(lambda: len(seen) == 2)
    assert seen == ["long ago", "new"]


async def test_a_key_that_is_worked_on_comes_again_as_urgently_as_asked() -> None:
    seen: list[str] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        begun.set()
        await go_on.wait()

    queue = ReconcileQueue(work, concurrency=1)
    queue.add("a")
    async with running(queue):
        await begun.wait()
        queue.add("b", patient=True)
        queue.add("a", patient=True)
        queue.add("a")
        queue.add("a", patient=True)
        go_on.set()
        await until(lambda: len(seen) == 3)
    assert seen == ["a", "a", "b"]


async def test_bursts_are_looked_at_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamadeploy_operator.queue.SPACING", 0.3)
    seen: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(key: str) -> None:
        seen.append(loop.time())

    queue = ReconcileQueue(work, concurrency=2)
    async with running(queue):
        queue.add("a", spaced=True)
        await until(lambda: len(seen) == 1)
        for _ in range(20):
            queue.add("a", spaced=True)
            await asyncio.sleep(0.001)
        await until(lambda: len(seen) == 2)
        assert seen[1] - seen[0] >= 0.29
        # Who cannot wait does not.
        queue.add("a", spaced=True)
        assert queue.delayed() == 1
        queue.add("a")
        await until(lambda: len(seen) == 3)
        assert queue.delayed() == 0
        # Nothing is remembered for longer than it is needed.
        await until(lambda: not queue._ended)
