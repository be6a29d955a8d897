"""A deployment on RabbitMQ and PostgreSQL: workers reach both themselves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def on_brokers(
    start_server: Any, project: Path, own_rabbitmq: Any, own_postgresql: Any, unique: str
) -> Any:
    """A server with deployment ``unique`` of the services ``echo``, ``gate`` and ``ask``."""
    server = start_server()
    file = server.deployment(unique, "echo", "gate", "ask", gate={"replicas": 2})
    file["control-plane"] = {"state_store_uri": own_postgresql.uri}
    file["message-queue"] = {"type": "rabbitmq", "url": own_rabbitmq.url()}
    reply = server.create(file, project)
    assert reply.status == 200, reply
    server.name = unique
    return server


@pytest.mark.defect(8, 9, 29)
def test_killed_workers_and_brokers_lose_nothing(
    on_brokers: Any, own_rabbitmq: Any, own_postgresql: Any, tmp_path: Path
) -> None:
    task = on_brokers.start_task(on_brokers.name, "echo", text="hi")
    assert on_brokers.result(on_brokers.name, task)["result"] == "v1 hi"
    queue = on_brokers.get("/status/").body["details"][on_brokers.name]["message_queue"]
    assert (queue["type"], "guest:guest" in json.dumps(queue)) == ("rabbitmq", False)
    gate = tmp_path / "gate"
    running = Path(f"{gate}.waiting")
    tasks = [on_brokers.start_task(on_brokers.name, "gate", gate=str(gate)) for _ in range(12)]
    on_brokers.wait_until(running.exists, "a task runs")
    own_rabbitmq.kill()
    own_postgresql.kill()
    worker = on_brokers.service(on_brokers.name, "gate")["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    own_postgresql.start()
    own_rabbitmq.start()
    gate.touch()
    path = f"/deployments/{on_brokers.name}/sessions"
    on_brokers.wait_until(lambda: on_brokers.get(path).status == 200, "the store is there again")
    for task in tasks:
        assert on_brokers.result(on_brokers.name, task)["result"] == "opened"


@pytest.mark.defect(29)
def test_a_restart_of_everything_keeps_a_waiting_task(
    on_brokers: Any, own_rabbitmq: Any, own_postgresql: Any, start_server: Any
) -> None:
    task = on_brokers.start_task(on_brokers.name, "ask")
    query = f"session_id={task['session_id']}"
    path = f"/deployments/{on_brokers.name}/tasks/{task['task_id']}"
    status = f"{path}?{query}"
    on_brokers.wait_until(lambda: on_brokers.get(status).body.get("state") == "waiting", "it waits")
    on_brokers.kill_everything()
    own_rabbitmq.kill()
    own_postgresql.kill()
    own_postgresql.start()
    own_rabbitmq.start()
    again = start_server(on_brokers.data_dir)
    again.wait_until(lambda: again.get(status).status == 200, "the deployment is back")
    event = {"__is_pydantic": True, "value": {"_data": {"response": "you"}}}
    event["qualified_name"] = "workflows.events.HumanResponseEvent"
    body = {"service_id": "ask", "event_obj_str": json.dumps(event)}
    sent = again.post(f"{path}/events?{query}", body)
    assert sent.status == 200, sent
    assert again.result(on_brokers.name, task)["result"] == "hello you"
