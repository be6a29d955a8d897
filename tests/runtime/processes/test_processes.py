"""Control planes, orchestrators and workers apart, several of each, on a shared queue and store."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
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


@pytest.mark.rule(2, 4, 11)
@pytest.mark.defect(6)
@pytest.mark.timeout(240)
async def test_five_replicas_run_each_task_once_and_a_sessions_in_order(
    deploy: Any, apis: Any, backend: Any
) -> None:
    """Also those whose step blocks its worker for longer than a lease, or whose input is large."""
    cluster = await deploy(backend, control_planes=2, services={"work": {"replicas": 5}})
    planes = apis(cluster)
    blocked = [await planes[0].create(number=n, blocks=8) for n in (100, 101)]
    session, first = await planes[0].create(number=0, padding="x" * 300_000)
    tasks = [(session, first)]
    for number in range(1, 20):
        tasks.append(await planes[number % 2].create(number=number, session=session))
    tasks += [await planes[n % 2].create(number=n) for n in range(20, 40)]
    results = await asyncio.gather(*(planes[1].result(*each, wait=60) for each in tasks))
    assert results == [f"done {n}" for n in range(40)]
    assert [await planes[1].result(*each) for each in blocked] == ["done 100", "done 101"]
    runs = [int(line.split()[0]) for line in (cluster.folder / "ledger").read_text().splitlines()]
    assert sorted(runs) == [*range(40), 100, 101]
    assert [number for number in runs if number < 20] == list(range(20))
    assert len({line.split()[1] for line in (cluster.folder / "ledger").open()}) > 1


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


@pytest.mark.rule(1, 3)
async def test_orchestrators_that_die_at_work_lose_and_repeat_nothing(
    deploy: Any, apis: Any, until: Any, own_redis: Any, redis_backend: Any
) -> None:
    """They drain an outbox of 120 tasks, and one after the other is killed while it does."""
    backend = replace(redis_backend, queue_url=own_redis.uri)
    options = {"max_concurrent_tasks": 4, "replicas": 2}
    cluster = await deploy(backend, orchestrators=2, services={"work": options})
    (api,) = apis(cluster)
    ledger = cluster.folder / "ledger"
    own_redis.kill()
    began = time.monotonic()
    tasks = [await api.create(number=n, seconds=0.05) for n in range(120)]
    assert time.monotonic() - began < 30  # 120 waits for a connection would take longer
    assert ledger.read_text() == ""
    await asyncio.to_thread(own_redis.start)
    for number, goal in enumerate((1, 25, 50, 75)):

        async def reached(goal: int = goal) -> bool:
            return ledger.read_text().count("\n") >= goal

        await until(reached)
        victim = cluster.orchestrators[number % 2]
        victim.kill()
        victim.start()
    results = await asyncio.gather(*(api.result(*each, wait=60) for each in tasks))
    assert results == [f"done {n}" for n in range(120)]
    # A message may have been published twice; the store lets it begin once.
    assert sorted(int(line.split()[0]) for line in ledger.read_text().splitlines()) == list(
        range(120)
    )
    await cluster.ready()


async def test_what_a_dead_worker_and_orchestrator_left_goes_to_others(
    deploy: Any, apis: Any, until: Any, redis_backend: Any
) -> None:
    cluster = await deploy(redis_backend, orchestrators=2, services={"work": {"replicas": 2}})
    (api,) = apis(cluster)
    tasks = [await api.create(number=n, seconds=3) for n in range(8)]

    async def running() -> bool:
        found = await api.ask("GET", "/task-statuses?state=running")
        return len({each["detail"] for each in found}) == 2

    await until(running)
    cluster.workers["work"][0].kill()
    cluster.orchestrators[0].kill()
    results = await asyncio.gather(*(api.result(*each, wait=60) for each in tasks))
    assert results == [f"done {n}" for n in range(8)]
