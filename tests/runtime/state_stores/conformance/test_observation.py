"""What a store tells its observer: each thing once, after it was committed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.exceptions import ConflictError


class Notes:
    """Writes down what it is told; operations apart from the rest."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.operations: list[str] = []

    def operation(self, name: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.operations.append(name)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append((name, *arguments))

    def take(self) -> list[tuple[Any, ...]]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def notes(bench: Any) -> Notes:
    notes = Notes()
    bench.store.observe(notes)
    return notes


async def test_a_task_that_succeeds(bench: Any, notes: Notes) -> None:
    await bench.create()
    bench.clock.advance(2)
    first = await bench.try_start(execution_id="x")
    await bench.try_start(execution_id="x")
    await bench.finish(first.key)
    await bench.finish(first.key)
    assert notes.take() == [
        ("started", "echo", "t", 2.0), ("ran", "echo", "t"), ("ended", "echo", "t", "succeeded"),
    ], "repeats tell nothing"  # fmt: skip
    assert notes.operations == ["get_session", "create_task", "start", "start", "finish", "finish"]


async def test_a_late_result_tells_nothing(bench: Any, notes: Notes) -> None:
    run = await bench.running(max_retries=3)
    bench.clock.advance(11)
    await bench.repair()
    assert notes.take()[1:] == [("redelivered", "echo")]
    await bench.finish(run.key)
    assert notes.take() == []
    again = await bench.start()
    await bench.finish(again.key, failed=True)
    assert notes.take() == [
        ("started", "echo", "t", None), ("ran", "echo", "t"), ("ended", "echo", "t", "failed"),
    ]  # fmt: skip


async def test_a_lost_attempt_that_is_started_anew_at_once(bench: Any, notes: Notes) -> None:
    await bench.running()
    bench.clock.advance(11)
    notes.take()
    await bench.start(worker="w2")
    assert notes.take() == [("redelivered", "echo"), ("started", "echo", "t", None)]


async def test_a_task_that_is_given_up(bench: Any, notes: Notes) -> None:
    await bench.running(max_retries=0)
    bench.clock.advance(11)
    notes.take()
    await bench.repair()
    assert notes.take() == [("dead_letter", "echo"), ("ended", "echo", "t", "failed")]


async def test_an_error_with_retries_left(bench: Any, notes: Notes) -> None:
    run = await bench.running(retry_on_error=True, max_retries=1)
    notes.take()
    await bench.finish(run.key, failed=True)
    assert notes.take() == [("ran", "echo", "t"), ("redelivered", "echo")]


async def test_a_park_and_a_cancel(bench: Any, notes: Notes) -> None:
    run = await bench.running()
    notes.take()
    await bench.park(run.key)
    await bench.store.cancel("t", "no more")
    await bench.store.cancel("t", "no more")
    assert notes.take() == [("ran", "echo", "t"), ("ended", "echo", "t", "cancelled")]


async def test_a_handed_back_attempt_is_no_redelivery(bench: Any, notes: Notes) -> None:
    run = await bench.running()
    notes.take()
    await bench.store.release(run.key)
    assert notes.take() == []


async def test_an_operation_that_is_refused_tells_nothing(bench: Any, notes: Notes) -> None:
    await bench.create(body_hash="a")
    with pytest.raises(ConflictError):
        await bench.create(body_hash="b")
    await bench.store.add_dead_letter("no message", "{}", "echo")
    assert notes.take() == [("dead_letter", "echo")]


async def test_nobody_is_told_any_more(bench: Any, notes: Notes) -> None:
    bench.store.observe(None)
    await bench.running()
    assert notes.take() == [] and notes.operations == []
