"""Replicas by the delivery table, and going away without loss: real processes, real brokers."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.testing import free_port

SIMPLE = "simple"
REPLICAS = 3
TASKS = 6


@pytest.fixture(params=[SIMPLE, "redis", "redis broadcast", "rabbitmq"])
async def row(request: pytest.FixtureRequest, deploy: Any, tmp_path: Path, unique: str) -> Any:
    """A deployment with three replicas on each row of the table."""
    name, workers = request.param, {"replicas": REPLICAS, "max_concurrent_tasks": TASKS}
    backend = request.getfixturevalue("redis_backend")
    more: dict[str, Any] = {}
    if name == SIMPLE:
        port = free_port()
        more = {"queue_port": port, "orchestrators": 0}
        url = f"http://worker:test-token@127.0.0.1:{port}"
        values = {"queue_options": {}, "state_store_uri": f"sqlite:///{tmp_path}/state.db"}
        backend = type(backend)("simple", url, namespace=f"ns.{unique}", **values)
    elif name == "redis broadcast":
        workers["broadcast"] = True
        backend.queue_options["exclusive_mode"] = False
    elif name == "rabbitmq":
        vhost = request.getfixturevalue("rabbitmq_vhost")
        url = request.getfixturevalue("rabbitmq_server").url(vhost)
        backend = type(backend)("rabbitmq", url, backend.state_store_uri, {}, backend.namespace)
    return name, await deploy(backend, services={"work": workers}, **more)


def in_flight(scaling: dict[str, Any]) -> list[int]:
    return sorted(each["in_flight"] for each in scaling["replicas"])


async def all_stopped(workers: Any) -> None:
    codes = await asyncio.gather(*(asyncio.to_thread(each.stop) for each in workers))
    assert codes == [0] * len(codes)


@pytest.mark.rule(15)
@pytest.mark.timeout(240)
async def test_what_three_replicas_do(row: Any, apis: Any, until: Any) -> None:
    """Who runs a task, how often, and what ``/scaling`` counts, also with no replica at all."""
    name, cluster = row
    api, workers = apis(cluster)[0], cluster.workers["work"]

    async def scaling() -> Any:
        return await api.ask("GET", "/services/work/scaling")

    # Long ones, all begun and none ended: who has how many does not depend on anybody's speed.
    held = [await api.create(number=n, seconds=600) for n in range(TASKS)]

    async def begun() -> Any:
        found = await scaling()
        return found if found["unacked"] == TASKS else None

    found = await until(begun)
    assert (found["ready"], found["custody"], found["backlog"]) == (0, 0, TASKS)
    if name == "rabbitmq":
        assert in_flight(found) == [TASKS // REPLICAS] * REPLICAS, "in turn"
    for session, task in held:
        await api.ask("POST", f"/tasks/{task}/cancel?session_id={session}")
    tasks = [await api.create(number=n) for n in range(100, 120)]
    results = await asyncio.gather(*(api.result(*each) for each in tasks))
    assert results == [f"done {n}" for n in range(100, 120)]
    each = REPLICAS if name == "redis broadcast" else 1

    def runs() -> Counter[int]:
        lines = (cluster.folder / "ledger").read_text().splitlines()
        return Counter(number for line in lines if (number := int(line.split()[0])) >= 100)

    async def all_ran() -> bool:
        return min(runs().values(), default=0) >= each

    await until(all_ran)
    await all_stopped(workers)
    assert runs() == dict.fromkeys(range(100, 120), each)
    # Nobody is there: the service is known and counted all the same.
    await api.create(number=200)
    found = await scaling()
    assert (found["ready"], found["backlog"], found["replicas"]) == (1, 1, [])
    assert found["oldest_seconds"] >= 0
    assert found["problem"] is None


@pytest.mark.timeout(240)
async def test_a_worker_that_goes_ends_hands_back_and_counts_no_retry(
    deploy: Any, apis: Any, until: Any, backend: Any
) -> None:
    """And the last one: an answer to a task that waited for it wakes the service from zero."""
    options = {"replicas": 2, "max_concurrent_tasks": 2, "max_retries": 0, "drain_seconds": 3}
    cluster = await deploy(backend, services={"work": options})
    api, (first, second) = apis(cluster)[0], cluster.workers["work"]
    await all_stopped([second])

    async def scaling(query: str = "") -> Any:
        return await api.ask("GET", f"/services/work/scaling{query}")

    short, long = await api.create(number=1, seconds=1), await api.create(number=2, seconds=8)

    async def both_run() -> bool:
        return in_flight(await scaling()) == [2]

    await until(both_run)
    queued = [await api.create(number=n) for n in (3, 4)]
    assert (await scaling())["ready"] == 2
    leaving = asyncio.create_task(all_stopped([first]))
    second.start()
    results = await asyncio.gather(*(api.result(*each) for each in (short, long, *queued)))
    assert results == [f"done {n}" for n in (1, 2, 3, 4)]
    await leaving
    runs = Counter(line.split()[0] for line in (cluster.folder / "ledger").open())
    assert runs == {"1": 1, "2": 2, "3": 1, "4": 1}, "the long one was handed back"

    waiting = await api.create(number=5, ask=True)

    async def parked() -> bool:
        return (await scaling())["parked"] == 1

    await until(parked)
    await all_stopped([second])
    known = await scaling()
    assert (known["backlog"], known["parked"], known["replicas"]) == (0, 1, [])
    news = asyncio.create_task(scaling(f"?wait=30&version={known['version']}"))
    await api.answer(*waiting)
    woken = await news
    assert (woken["ready"], woken["parked"]) == (1, 0)
    second.start()
    assert await api.result(*waiting) == "heard yes"
