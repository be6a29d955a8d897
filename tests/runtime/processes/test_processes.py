"""Control planes, orchestrators and workers apart, several of each, on a shared queue and store."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.request import urlopen

import pytest

ANSWER = json.dumps(
    {
        "__is_pydantic": True,
        "value": {"_data": {"response": "yes"}},
        "qualified_name": "workflows.events.HumanResponseEvent",
    }
)


@pytest.mark.rule(6, 12)
async def test_clients_may_use_any_control_plane(
    deploy: Any, apis: Any, until: Any, backend: Any
) -> None:
    cluster = await deploy(
        backend, control_planes=3, orchestrators=2, services={"work": {"replicas": 2}}
    )
    first, second, third = apis(cluster)
    # Created on one, streamed on another, answered on a third, waited for on any.
    session, task = await first.create(number=1, ticks=3, ask=True)
    stream = asyncio.create_task(second.events(session, task))
    waits = [asyncio.create_task(each.result(session, task)) for each in (first, second, third)]

    async def parked() -> bool:
        return await third.state(session, task) == "waiting"

    await until(parked)
    body = {"service_id": "work", "event_obj_str": ANSWER}
    await third.ask("POST", f"/tasks/{task}/events?session_id={session}", body)
    assert await asyncio.gather(*waits) == ["heard yes"] * 3
    events = await asyncio.wait_for(stream, 30)
    # Code before the wait ran again: its events came twice.
    assert [event["number"] for event in events if "number" in event] == [0, 1, 2] * 2
    assert events == await first.events(session, task)
    # Cancelled on another one than it was created on: whoever waits anywhere hears of it.
    session, task = await third.create(number=2, seconds=60)
    waiting = asyncio.create_task(first.result(session, task))
    outcome = await second.ask("POST", f"/tasks/{task}/cancel?session_id={session}")
    assert outcome["outcome"] == "cancelled"
    assert await waiting is not None
    assert await third.state(session, task) == "cancelled"


async def test_control_planes_embed_no_loops(
    deploy: Any, apis: Any, until: Any, backend: Any
) -> None:
    """What nobody started is an orchestrator's to find: without one it stays, with one it runs."""
    cluster = await deploy(backend, orchestrators=0)
    (api,) = apis(cluster)
    (worker,) = cluster.workers["work"]
    session, task = await api.create(number=1, seconds=30)

    async def running() -> bool:
        return await api.state(session, task) == "running"

    await until(running)
    worker.kill()
    # Longer than the lease of 6 s: nobody takes it back.
    assert await api.result(session, task, wait=9) is None
    assert await running()
    await api.ask("POST", f"/tasks/{task}/cancel?session_id={session}")


@pytest.mark.rule(14)
async def test_a_calls_session_goes_with_its_caller(
    deploy: Any, apis: Any, until: Any, backend: Any
) -> None:
    cluster = await deploy(backend, control_planes=2, services={"work": {}, "caller": {}})
    first, second = apis(cluster)
    session, task = await first.create(service="caller", number=7)
    assert await second.result(session, task) == "it says done 7"

    async def alone() -> bool:
        return [each["session_id"] for each in await second.ask("GET", "/sessions")] == [session]

    await until(alone)
    # What workers commit to a shared store they count themselves.
    text = ""
    for (worker,) in cluster.workers.values():
        with urlopen(f"{worker.metrics_url}/metrics") as response:
            text += response.read().decode()
    for name in ("work", "caller"):
        labels = f'{{deployment="test",outcome="succeeded",service="{name}"}}'
        assert f"llamadeploy_tasks_total{labels} 1.0" in text
    assert 'llamadeploy_store_operation_seconds_count{deployment="test",operation="finish"}' in text
