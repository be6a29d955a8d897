"""Creating and reading tasks."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.exceptions import ConfigurationError, ConflictError, NotFoundError
from llamadeploy.state_stores.records import INLINE_INPUT_LIMIT


async def test_create_gives_the_row_to_publish(bench: Any) -> None:
    created = await bench.create(ancestors=("a", "b"))
    (row,) = created.publish
    assert (created.task_id, created.session_id, created.existed) == ("t", "s", False)
    assert (row.message_id, row.kind, row.service) == ("t/1", "run", "echo")
    assert (row.task_id, row.session_id, row.ancestors) == ("t", "s", ("a", "b"))
    assert row.input == '{"message": "hello"}'
    record = await bench.record()
    assert record.state == "queued"
    assert record.created_at == bench.clock.now
    assert (record.attempt, record.started_at, record.result, record.owner) == (0, None, None, None)
    assert await bench.store.get_input("t") == '{"message": "hello"}'


async def test_unknown_task(bench: Any) -> None:
    assert await bench.store.get_task("t") is None
    assert await bench.store.get_input("t") is None
    for call in (
        bench.store.cancel("t", "why"),
        bench.store.append_inbound("t", "e"),
        bench.store.read_log("t", 0, 10),
    ):
        with pytest.raises(NotFoundError, match="'t'"):
            await call


async def test_the_same_body_again_is_the_same_task(bench: Any) -> None:
    await bench.create(body_hash="h1", new_session=True)
    again = await bench.create(body_hash="h1", new_session=True)
    assert again.existed
    assert again.publish == ()
    with pytest.raises(ConflictError, match="another body"):
        await bench.create(body_hash="h2")
    assert len(await bench.store.list_tasks()) == 1


async def test_create_needs_its_session(bench: Any) -> None:
    with pytest.raises(NotFoundError, match="Session not found"):
        await bench.create(new_session=False)
    await bench.store.create_session("s")
    await bench.create(new_session=False)
    with pytest.raises(ConflictError, match="session 's' exists"):
        await bench.create("t2", new_session=True)
    assert await bench.store.get_task("t2") is None


@pytest.mark.parametrize(("text", "inline"), [("x", True), ("é", False)])
async def test_a_large_input_travels_by_reference(bench: Any, text: str, inline: bool) -> None:
    """The limit is in bytes: as many two-byte characters are too many."""
    large = text * INLINE_INPUT_LIMIT
    created = await bench.create(input=large)
    assert created.publish[0].input == (large if inline else None)
    assert await bench.store.get_input("t") == large
    assert (await bench.start()).input == large


async def test_definitions_are_listed_oldest_first(bench: Any) -> None:
    for number in range(5):
        await bench.create(f"t{number}", session_id=f"s{number % 2}")
    listed = await bench.store.list_tasks()
    assert [task.task_id for task in listed] == ["t0", "t1", "t2", "t3", "t4"]
    assert [task.task_id for task in await bench.store.list_tasks("s1")] == ["t1", "t3"]
    assert (listed[0].session_id, listed[0].service_id) == ("s0", "echo")
    assert listed[0].input == '{"message": "hello"}'
    with pytest.raises(NotFoundError, match="Session not found"):
        await bench.store.list_tasks("s9")


async def test_counts(bench: Any) -> None:
    await bench.create("a")
    await bench.create("b", session_id="s2")
    await bench.finish((await bench.start("a")).key)
    counts = await bench.store.counts()
    assert counts == {
        "queued": 1,
        "running": 0,
        "waiting": 0,
        "succeeded": 1,
        "failed": 0,
        "cancelled": 0,
        "outbox": 1,
    }


async def test_text_that_is_not_unicode_is_refused_and_nothing_else(bench: Any) -> None:
    with pytest.raises(ConfigurationError, match="not valid Unicode"):
        await bench.create(input="\ud800")
    assert await bench.store.get_session("s") is None
    await bench.create(input="\x00 and é")
    assert await bench.store.get_input("t") == "\x00 and é"
