"""Removing one deployment from a store, and nothing of its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamadeploy.exceptions import NotFoundError
from llamadeploy.state_stores.records import NewEvent
from llamadeploy.types import ServiceDefinition

MINE = "a.[b]*"
NEIGHBOURS = ("a.[b]*2", "a.", "a.b", "a.[b]*.c", "xa.[b]*")


async def _fill(bench: Any) -> None:
    """Something in every table or kind of key."""
    run = await bench.running()
    await bench.store.append_events(run.key, [NewEvent(0, "E", "{}")])
    await bench.store.append_inbound("t", "{}")
    await bench.create("behind")
    await bench.create("queued", session_id="other")
    await bench.store.merge_session_state("s", {"x": 1})
    await bench.store.put_service(ServiceDefinition(service_name="echo"))
    await bench.store.add_dead_letter("reason", "message")


async def _everything(store: Any) -> tuple[Any, ...]:
    return (
        await store.counts(),
        await store.list_tasks(),
        sorted(each.model_dump_json() for each in await store.list_sessions()),
        await store.list_services(),
        await store.list_dead_letters(),
        (await store.read_log("t", 0, 10)).events,
    )


@pytest.mark.parametrize("scheme", ["sqlite", "redis", "postgresql"])
async def test_purge_takes_one_namespace_alone(
    scheme: str, adapters: dict[str, Any], tmp_path: Path, clock: Any, bench: Any
) -> None:
    mine = await adapters[scheme](tmp_path, MINE, clock)
    neighbours = [await adapters[scheme](tmp_path, name, clock) for name in NEIGHBOURS]
    for store in (mine, *neighbours):
        await _fill(type(bench)(store, clock))
    before = [await _everything(store) for store in neighbours]
    assert await mine.purge() == 3
    assert [await _everything(store) for store in neighbours] == before
    assert not any((await mine.counts()).values())
    assert await mine.list_tasks() == await mine.list_sessions() == []
    assert await mine.list_services() == {}
    assert await mine.list_dead_letters() == []
    assert await mine.next_due() is None
    with pytest.raises(NotFoundError):
        await mine.read_log("t", 0, 10)
    assert await mine.purge() == 0
    # It begins anew: also the ids are free.
    await _fill(type(bench)(mine, clock))
    for store in (mine, *neighbours):
        await store.aclose()


async def test_purge_works_in_steps(bench: Any) -> None:
    for number in range(1203):
        await bench.create(f"t{number}", session_id="s")
    assert await bench.store.purge() == 1203
    assert await bench.store.list_tasks() == []
