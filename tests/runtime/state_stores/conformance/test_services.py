"""Registered services, and the borders between deployments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamadeploy.exceptions import StoreError
from llamadeploy.types import ServiceDefinition, ServiceOptions


async def test_services(bench: Any) -> None:
    service = ServiceDefinition(
        service_name="echo",
        description="says it again",
        options=ServiceOptions(max_retries=7),
        added_by_a_later_release=[1],  # type: ignore[call-arg]
    )
    await bench.store.put_service(service)
    await bench.store.put_service(ServiceDefinition(service_name="b"))
    assert await bench.store.get_service("echo") == service
    assert list(await bench.store.list_services()) == ["b", "echo"]
    await bench.store.put_service(service.model_copy(update={"description": "new"}))
    assert (await bench.store.get_service("echo")).description == "new"
    await bench.store.delete_service("echo")
    await bench.store.delete_service("echo")
    assert await bench.store.get_service("echo") is None


async def test_a_closed_store_says_so(bench: Any) -> None:
    await bench.store.aclose()
    await bench.store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await bench.store.ping()


@pytest.mark.parametrize("scheme", ["sqlite", "redis", "postgresql"])
async def test_two_deployments_share_a_store_and_see_nothing_of_each_other(
    scheme: str, adapters: dict[str, Any], tmp_path: Path, clock: Any, bench: Any
) -> None:
    one = await adapters[scheme](tmp_path, "one", clock)
    two = await adapters[scheme](tmp_path, "two", clock)
    first, second = type(bench)(one, clock), type(bench)(two, clock)
    run = await first.running()
    await one.put_service(ServiceDefinition(service_name="echo"))
    letter = await one.add_dead_letter("r", "m")
    created = await first.create("behind")
    pending = await first.create("pending", session_id="p")
    assert created.publish == ()
    clock.advance(11)
    assert await two.get_task("t") is None
    assert await two.get_session("s") is None
    assert await two.list_tasks() == []
    assert await two.list_sessions() == []
    assert await two.list_services() == {}
    assert await two.list_dead_letters() == []
    assert not await two.delete_dead_letter(letter)
    assert await two.next_due() is None
    assert await two.expire_worker("w") == 0
    assert await two.expire(clock.now + 1) == 0
    assert (await second.repair(resend=0)).publish == ()
    assert (await second.repair()).lost_leases == 0
    assert sum((await two.counts()).values()) == 0
    assert await second.dropped() == "unknown"
    assert not (await second.finish(run.key)).accepted
    await two.outbox_done([pending.publish[0].row_id])
    assert (await one.counts())["outbox"] == 1
    await second.create()
    assert await two.delete_session("s") is not None
    assert await first.state() == "running"
    assert (await first.finish(run.key)).accepted
    await one.aclose()
    await two.aclose()
