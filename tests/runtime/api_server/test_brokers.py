"""A deployment on a queue and a store of their own: workers reach both themselves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Brokers:
    """A queue and a store that run.

    Attributes:
        queue: the deployment file's ``message-queue``.
        shown: what status tells of the queue, among others.
        secret: what status must not tell.
        servers: the processes behind them; the store is started first.
    """

    queue: dict[str, Any]
    store: str
    shown: dict[str, Any]
    secret: str
    servers: tuple[Any, ...]

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def start(self) -> None:
        for server in self.servers:
            server.start()


def _redis(fixture: Callable[[str], Any]) -> Brokers:
    redis = fixture("own_redis")
    queue = {"type": "redis", "url": redis.uri, "exclusive_mode": True}
    shown = {"type": "redis", "exclusive_mode": True}
    return Brokers(queue, redis.uri, shown, "password", (redis,))


def _rabbitmq_and_postgresql(fixture: Callable[[str], Any]) -> Brokers:
    rabbitmq, postgresql = fixture("own_rabbitmq"), fixture("own_postgresql")
    queue = {"type": "rabbitmq", "url": rabbitmq.url()}
    return Brokers(
        queue, postgresql.uri, {"type": "rabbitmq"}, "guest:guest", (postgresql, rabbitmq)
    )


PAIRS = {"redis": _redis, "rabbitmq+postgresql": _rabbitmq_and_postgresql}


@pytest.fixture(params=PAIRS)
def brokers(request: pytest.FixtureRequest) -> Brokers:
    return PAIRS[request.param](request.getfixturevalue)


@pytest.fixture
def server(start_server: Any, project: Path, brokers: Brokers, unique: str) -> Any:
    """A server with deployment ``unique`` of the services ``echo``, ``gate`` and ``ask``."""
    server = start_server()
    file = server.deployment(unique, "echo", "gate", "ask", gate={"replicas": 2})
    file["control-plane"] = {"state_store_uri": brokers.store}
    file["message-queue"] = brokers.queue
    reply = server.create(file, project)
    assert reply.status == 200, reply
    server.name = unique
    return server


@pytest.mark.defect(8, 9, 29)
def test_killed_workers_and_brokers_lose_nothing(
    server: Any, brokers: Brokers, tmp_path: Path
) -> None:
    task = server.start_task(server.name, "echo", text="hi")
    assert server.result(server.name, task)["result"] == "v1 hi"
    body = server.get("/status/").body
    assert body["status"] == "Healthy"
    queue = body["details"][server.name]["message_queue"]
    assert queue.items() >= brokers.shown.items()
    assert brokers.secret not in json.dumps(queue)
    gate = tmp_path / "gate"
    running = Path(f"{gate}.waiting")
    tasks = [server.start_task(server.name, "gate", gate=str(gate)) for _ in range(12)]
    server.wait_until(running.exists, "a task runs")
    brokers.kill()
    worker = server.service(server.name, "gate")["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    brokers.start()
    gate.touch()
    path = f"/deployments/{server.name}/sessions"
    server.wait_until(lambda: server.get(path).status == 200, "the store is there again")
    for task in tasks:
        assert server.result(server.name, task)["result"] == "opened"


@pytest.mark.defect(29)
def test_a_restart_of_everything_keeps_a_waiting_task(
    server: Any, brokers: Brokers, start_server: Any
) -> None:
    task = server.start_task(server.name, "ask")
    query = f"session_id={task['session_id']}"
    path = f"/deployments/{server.name}/tasks/{task['task_id']}"
    status = f"{path}?{query}"
    server.wait_until(lambda: server.get(status).body.get("state") == "waiting", "it waits")
    server.kill_everything()
    brokers.kill()
    brokers.start()
    again = start_server(server.data_dir)
    again.wait_until(lambda: again.get(status).status == 200, "the deployment is back")
    event = {"__is_pydantic": True, "value": {"_data": {"response": "you"}}}
    event["qualified_name"] = "workflows.events.HumanResponseEvent"
    body = {"service_id": "ask", "event_obj_str": json.dumps(event)}
    sent = again.post(f"{path}/events?{query}", body)
    assert sent.status == 200, sent
    assert again.result(server.name, task)["result"] == "hello you"
