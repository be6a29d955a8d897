"""A deployment whose queue and store are a Redis server: workers reach both themselves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def on_redis(start_server: Any, project: Path, own_redis: Any, unique: str) -> Any:
    """A server with deployment ``unique`` of the services ``echo``, ``gate`` and ``ask``."""
    server = start_server()
    file = server.deployment(unique, "echo", "gate", "ask", gate={"replicas": 2})
    file["control-plane"] = {"state_store_uri": own_redis.uri}
    file["message-queue"] = {"type": "redis", "url": own_redis.uri, "exclusive_mode": True}
    reply = server.create(file, project)
    assert reply.status == 200, reply
    server.name = unique
    return server


def test_tasks_run_and_status_shows_where(on_redis: Any, own_redis: Any) -> None:
    task = on_redis.start_task(on_redis.name, "echo", text="hi")
    assert on_redis.result(on_redis.name, task)["result"] == "v1 hi"
    body = on_redis.get("/status/").body
    assert body["status"] == "Healthy"
    queue = body["details"][on_redis.name]["message_queue"]
    assert (queue["type"], queue["exclusive_mode"]) == ("redis", True)


@pytest.mark.defect(8, 29)
def test_a_killed_worker_and_a_killed_redis_lose_nothing(
    on_redis: Any, own_redis: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    running = Path(f"{gate}.waiting")
    tasks = [on_redis.start_task(on_redis.name, "gate", gate=str(gate)) for _ in range(12)]
    on_redis.wait_until(running.exists, "a task runs")
    own_redis.kill()
    worker = on_redis.service(on_redis.name, "gate")["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    own_redis.start()
    gate.touch()
    path = f"/deployments/{on_redis.name}/sessions"
    on_redis.wait_until(lambda: on_redis.get(path).status == 200, "the store is there again")
    for task in tasks:
        assert on_redis.result(on_redis.name, task)["result"] == "opened"


@pytest.mark.defect(29)
def test_a_restart_of_everything_keeps_a_waiting_task(
    on_redis: Any, own_redis: Any, start_server: Any
) -> None:
    task = on_redis.start_task(on_redis.name, "ask")
    query = f"session_id={task['session_id']}"
    path = f"/deployments/{on_redis.name}/tasks/{task['task_id']}"
    status = f"{path}?{query}"
    on_redis.wait_until(lambda: on_redis.get(status).body.get("state") == "waiting", "it waits")
    on_redis.kill_everything()
    own_redis.kill()
    own_redis.start()
    again = start_server(on_redis.data_dir)
    again.wait_until(lambda: again.get(status).status == 200, "the deployment is back")
    event = {"__is_pydantic": True, "value": {"_data": {"response": "you"}}}
    event["qualified_name"] = "workflows.events.HumanResponseEvent"
    body = {"service_id": "ask", "event_obj_str": json.dumps(event)}
    sent = again.post(f"{path}/events?{query}", body)
    assert sent.status == 200, sent
    assert again.result(on_redis.name, task)["result"] == "hello you"
