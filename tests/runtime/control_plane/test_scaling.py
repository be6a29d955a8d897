"""What an autoscaler reads, and waits for."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from llamadeploy.control_plane import loads
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.state_stores.records import ParkRequest, StartRequest

SCALING = "/services/slow/scaling"


def body() -> dict[str, Any]:
    return {"input": "{}", "service_id": "slow"}


async def started(plane: Any) -> Any:
    task = await plane.post("/deployments/quickstart/tasks/create", body())
    request = StartRequest(task_id=task["task_id"], execution_id="x", worker_id="w1", lease=60)
    return await plane.control_plane.execute("start", request)


def waiting(plane: Any, version: str, seconds: float = 30) -> asyncio.Task[Any]:
    path = f"{SCALING}?wait={seconds}&version={version}"
    return asyncio.create_task(plane.get(path))


async def test_a_change_answers_who_waits(plane: Any) -> None:
    """A task, its start, its park and its answer, without a worker; each well within a second."""
    known = await plane.get(SCALING)
    assert (known["backlog"], known["replicas"]) == (0, [])

    async def after(change: Any) -> Any:
        nonlocal known
        task = waiting(plane, known["version"])
        outcome = await change
        changed_at = time.monotonic()
        before, known = known, await task
        assert known["version"] != before["version"]
        assert time.monotonic() - changed_at < loads.RESYNC_SECONDS / 2, "it was woken"
        return outcome

    run = await after(started(plane))
    if known["ready"]:  # seen between the task's creation and its start
        known = await plane.get(SCALING)
    assert (known["ready"], known["unacked"], known["backlog"]) == (0, 1, 1)
    assert known["replicas"] == [{"name": "w1", "in_flight": 1}]
    park = ParkRequest(key=run.key, snapshot="s", consumed_seq=0, next_index=0, deadline=4e9)
    await after(plane.control_plane.execute("park", park))
    assert (known["backlog"], known["parked"], known["replicas"]) == (0, 1, [])
    event = {"service_id": "slow", "event_obj_str": json.dumps({"value": {}})}
    path = f"/sessions/{run.session_id}/tasks/{run.task_id}/send_event"
    await after(plane.post(path, event))
    assert (known["ready"], known["parked"]) == (1, 0), "an answer wakes the service"


async def test_what_is_old_news_is_told_at_once_and_nothing_new_after_the_time(plane: Any) -> None:
    known = await plane.get(SCALING)
    started_at = time.monotonic()
    assert (await waiting(plane, "another"))["version"] == known["version"]
    assert time.monotonic() - started_at < 10
    assert (await waiting(plane, known["version"], 0.2))["version"] == known["version"]
    assert time.monotonic() - started_at >= 0.2
    await plane.get("/services/none/scaling?wait=30&version=x", 404)
    await plane.get(f"{SCALING}?wait=-1", 422)


async def test_a_service_of_another_name_answers_nobody(plane: Any) -> None:
    """Other services' tasks cost a look now and then, and no reply."""
    known = await plane.get(SCALING)
    task = waiting(plane, known["version"], 1.0)
    for _ in range(20):
        await plane.post("/deployments/quickstart/tasks/create", body() | {"service_id": "echo"})
    assert (await task)["version"] == known["version"]


@pytest.mark.parametrize("exclusive", [True, False])
async def test_a_queue_that_is_away_is_said(
    open_plane: Any, own_redis: Any, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    monkeypatch.setattr(loads, "TROUBLE_SECONDS", 0.0)
    monkeypatch.setattr(loads, "RESYNC_SECONDS", 0.1)
    queue = open_queue("redis", own_redis.uri, {"exclusive_mode": exclusive})
    async with open_plane(queue=queue) as plane:
        await started(plane)
        known = await plane.get(SCALING)
        assert (known["backlog"], known["problem"]) == (1, None)
        task = waiting(plane, known["version"])
        own_redis.freeze()
        told = await task
        assert told["problem"].startswith("queue: ")
        assert told["backlog"] == 1, "what is known is told all the same"
        refused = await plane.get(f"{SCALING}?strict=true", 503)
        assert refused["detail"].startswith("queue: ")
        task = waiting(plane, told["version"])
        own_redis.thaw()
        assert (await task)["version"] == known["version"]
        await plane.get(f"{SCALING}?strict=true")
