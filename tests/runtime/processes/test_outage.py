"""What clients see while the message queue, or the state store, is away."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import aiohttp
import pytest


@pytest.fixture
def broken_queue(request: pytest.FixtureRequest, backend: Any) -> Any:
    """A message queue to be killed, with the shared store; the backend and the server."""
    server = request.getfixturevalue(f"own_{backend.queue_type}")
    url = server.uri if backend.queue_type == "redis" else server.url()
    return replace(backend, queue_url=url), server


async def probe(process: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{process.metrics_url}/readyz") as response,
    ):
        return response.status, await response.json()


@pytest.mark.rule(3)
async def test_tasks_are_accepted_while_the_queue_is_away(
    deploy: Any, apis: Any, until: Any, broken_queue: Any
) -> None:
    backend, server = broken_queue
    cluster = await deploy(backend, control_planes=2)
    first, second = apis(cluster)
    assert await second.result(*await first.create(number=0)) == "done 0"
    await asyncio.to_thread(server.kill)
    tasks = [await (first, second)[n % 2].create(number=n) for n in range(1, 7)]
    # Control planes can do their work, which is to accept; they say what is wrong all the same.
    for process in cluster.control_planes:
        status, body = await probe(process)
        assert (status, body["reasons"]) == (200, [])
        assert body["warnings"][0].startswith("queue: message queue")
    status, body = await probe(cluster.orchestrators[0])
    assert status == 503
    assert any(each.startswith("queue: message queue") for each in body["reasons"]), body
    # The other way round as well: what was accepted can be looked at, cancelled and waited for.
    assert await second.result(*tasks[0], wait=0) is None
    assert await first.state(*tasks[0]) == "queued"
    session, task = tasks.pop()
    outcome = await second.ask("POST", f"/tasks/{task}/cancel?session_id={session}")
    assert outcome["outcome"] == "cancelled"
    waits = [asyncio.create_task(second.result(*each, wait=60)) for each in tasks]
    await asyncio.to_thread(server.start)
    assert await asyncio.gather(*waits) == [f"done {n}" for n in range(1, 6)]
    await cluster.ready()


async def test_a_queue_that_hangs_makes_nobody_wait_for_long(
    deploy: Any, apis: Any, own_redis: Any, redis_backend: Any
) -> None:
    cluster = await deploy(replace(redis_backend, queue_url=own_redis.uri))
    (api,) = apis(cluster)
    own_redis.freeze()
    tasks = [await api.create(number=0)]  # this one finds out
    began = asyncio.get_running_loop().time()
    tasks += [await api.create(number=n) for n in range(1, 6)]
    # Each try costs the queue's 5 s; after one the next ones are spared it.
    assert asyncio.get_running_loop().time() - began < 4
    own_redis.thaw()
    assert [await api.result(*each) for each in tasks] == [f"done {n}" for n in range(6)]


@pytest.fixture
def broken_store(request: pytest.FixtureRequest, backend: Any) -> Any:
    """A state store to be killed, with the shared queue."""
    kind = "redis" if backend.queue_type == "redis" else "postgresql"
    server = request.getfixturevalue(f"own_{kind}")
    return replace(backend, state_store_uri=server.uri), server


async def test_while_the_store_is_away_clients_are_told_to_come_again(
    deploy: Any, apis: Any, until: Any, broken_store: Any
) -> None:
    backend, server = broken_store
    cluster = await deploy(backend)
    (api,) = apis(cluster)
    accepted = [await api.create(number=n, seconds=1) for n in range(3)]
    server.kill()

    async def refused() -> bool:
        """A task that was not accepted is refused so that the client knows to come again."""
        body = {"input": json.dumps({"number": 9}), "service_id": "work"}
        async with api.http.post(f"{api.url}/tasks/create", json=body) as response:
            assert response.status == 503, await response.text()
            assert response.headers["Retry-After"] == "1"
            assert "state store" in (await response.json())["detail"]
        return True

    await until(refused)
    for process in (*cluster.control_planes, *cluster.orchestrators):
        status, body = await probe(process)
        assert status == 503
        assert body["reasons"][0].startswith("state store: ")
    await asyncio.to_thread(server.start)
    await cluster.ready()
    assert [await api.result(*each) for each in accepted] == [f"done {n}" for n in range(3)]


async def test_processes_wait_for_a_store_that_is_not_there_yet(
    deploy: Any, apis: Any, until: Any, own_redis: Any, redis_backend: Any, tmp_path: Any
) -> None:
    own_redis.stop()
    uri = own_redis.uri
    backend = replace(redis_backend, queue_url=uri, state_store_uri=uri)
    starting = asyncio.create_task(deploy(backend))
    logs = [
        tmp_path / backend.namespace / f"{name}-0.log" for name in ("control-plane", "orchestrator")
    ]

    async def waiting() -> bool:
        return all(log.exists() and "not started yet: " in log.read_text() for log in logs)

    await until(waiting)
    own_redis.start()
    cluster = await starting
    (api,) = apis(cluster)
    assert await api.result(*await api.create(number=1)) == "done 1"
