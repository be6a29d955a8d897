"""The server as a process: restarts that lose nothing, drain, tokens, locks, start-up files."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamadeploy.api_server.backends.local.core import is_loopback

EVENT = json.dumps(
    {
        "__is_pydantic": True,
        "value": {"_data": {"response": "you"}},
        "qualified_name": "workflows.events.HumanResponseEvent",
    }
)


@pytest.fixture
def file(project: Path) -> Callable[[dict[str, Any]], Path]:
    """``file(deployment)``: a deployment file next to the sources."""

    def write(content: dict[str, Any]) -> Path:
        path = project / f"{content['name']}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def state(server: Any, name: str, task: dict[str, Any]) -> str:
    query = f"session_id={task['session_id']}"
    reply = server.get(f"/deployments/{name}/tasks/{task['task_id']}?{query}")
    return str(reply.body["state"]) if reply.status == 200 else f"status {reply.status}"


@pytest.mark.defect(29)
def test_kill_9_of_everything_loses_nothing(
    start_server: Any, project: Path, tmp_path: Path
) -> None:
    first = start_server(tmp_path / "data")
    file = first.deployment("kept", "echo", "gate", "ask")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        file["control-plane"] = {"port": free.getsockname()[1]}
    assert first.create(file, project).status == 200
    done = first.start_task("kept", "echo", text="done")
    assert first.result("kept", done)["result"] == "v1 done"
    gate = tmp_path / "gate"
    running = [first.start_task("kept", "gate", gate=str(gate)) for _ in range(12)]
    first.wait_until((tmp_path / "gate.waiting").exists, "a task runs")
    parked = first.start_task("kept", "ask")
    first.wait_until(lambda: state(first, "kept", parked) == "waiting", "the question is parked")
    sessions = sorted(each["session_id"] for each in first.get("/deployments/kept/sessions").body)
    tasks = first.get("/deployments/kept/tasks").body
    first_plane = first.details("kept")["control_plane"]
    first.kill_everything()

    second = start_server(tmp_path / "data")
    assert second.get("/deployments/").body == [{"name": "kept"}]
    assert second.details("kept")["control_plane"] == first_plane
    listed = second.get("/deployments/kept/sessions").body
    assert sorted(each["session_id"] for each in listed) == sessions
    assert second.get("/deployments/kept/tasks").body == tasks
    assert second.result("kept", done)["result"] == "v1 done"
    stream = second.get(
        f"/deployments/kept/tasks/{done['task_id']}/events?session_id={done['session_id']}"
    )
    assert stream.status == 200
    gate.touch()
    assert {second.result("kept", task)["result"] for task in running} == {"opened"}
    assert state(second, "kept", parked) == "waiting"
    path = f"/deployments/kept/tasks/{parked['task_id']}/events?session_id={parked['session_id']}"
    assert second.post(path, {"service_id": "ask", "event_obj_str": EVENT}).status == 200
    assert second.result("kept", parked)["result"] == "hello you"
    assert second.run("kept", "echo", text="new").body == "v1 new"


def test_workers_of_a_killed_server_end(start_server: Any, project: Path) -> None:
    server = start_server()
    assert server.create(server.deployment("orphans", "pid", "echo"), project).status == 200
    workers = server.workers()
    assert len(workers) == 2
    server.stop(signal.SIGKILL)
    server.wait_until(lambda: not any(map(server.alive, workers)), "the workers have ended")


def test_sigterm_drains_and_ends_with_0(start_server: Any, project: Path, tmp_path: Path) -> None:
    server = start_server(tmp_path / "data")
    assert server.create(server.deployment("drained", "gate"), project).status == 200
    gate = tmp_path / "gate"
    task = server.start_task("drained", "gate", gate=str(gate))
    server.wait_until((tmp_path / "gate.waiting").exists, "the task runs")
    workers = server.workers()
    server.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: "workers drain" in server.tail(), "it stops")
    gate.touch()
    assert server.process.wait(20) == 0
    assert not any(map(server.alive, workers))
    again = start_server(tmp_path / "data")
    assert again.result("drained", task)["result"] == "opened"


def test_a_second_server_on_the_data_directory_is_refused(start_server: Any, server: Any) -> None:
    second = start_server(server.data_dir)
    assert second.stop() == 1
    assert f"is in use by the server with pid {server.process.pid}" in second.tail()
    assert server.get("/healthz").status == 200


def test_a_port_in_use_is_named(start_server: Any, server: Any) -> None:
    port = server.url.rsplit(":", 1)[1]
    second = start_server(None, "--port", port)
    assert second.stop() == 1
    assert f"port {port} is in use on 127.0.0.1: choose another with --port" in second.tail()


def test_a_file_is_served_and_served_again_with_its_present_content(
    start_server: Any, server: Any, file: Any, tmp_path: Path
) -> None:
    path = file(server.deployment("served", "echo"))
    first = start_server(tmp_path / "data", str(path))
    task = first.start_task("served", "echo", text="x")
    assert first.result("served", task)["result"] == "v1 x"
    assert first.stop() == 0
    file(server.deployment("served", "pid"))
    second = start_server(tmp_path / "data", str(path))
    assert second.run("served").body.isdigit()
    assert second.result("served", task)["result"] == "v1 x"


def test_a_file_that_fails_ends_the_server_and_keeps_what_was(
    start_server: Any, server: Any, file: Any, tmp_path: Path
) -> None:
    path = file(server.deployment("served", "echo"))
    assert start_server(tmp_path / "data", str(path)).stop() == 0
    file(server.deployment("served", "missing"))
    failed = start_server(tmp_path / "data", str(path))
    assert failed.stop() == 1
    assert "service 'missing'" in failed.tail()
    assert "has no attribute 'missing'" in failed.tail()
    again = start_server(tmp_path / "data")
    assert again.run("served", text="kept").body == "v1 kept"


def test_a_missing_file_ends_the_server(start_server: Any, tmp_path: Path) -> None:
    failed = start_server(None, str(tmp_path / "missing.yaml"))
    assert failed.stop() == 1
    assert "missing.yaml' cannot be read" in failed.tail()


def test_a_folder_of_files_is_deployed_at_the_start_as_in_0_8_1(
    start_server: Any, server: Any, project: Path, tmp_path: Path
) -> None:
    shutil.copytree(project / "src", tmp_path / "src")
    (tmp_path / "broken.yml").write_text("name: [")
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(server.deployment("first", "echo")))
    bad = server.deployment("second", "echo", echo={"env-files": ["missing"]})
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(bad))
    started = start_server(env={"LLAMA_DEPLOY_APISERVER_RC_PATH": str(tmp_path)})
    assert started.get("/deployments/").body == [{"name": "first"}]
    assert "broken.yml was not deployed" in started.tail()
    assert "second.yaml was not deployed" in started.tail()
    assert started.run("first", text="x").body == "v1 x"


def test_a_deployment_that_cannot_be_restored_is_kept_and_shown(
    start_server: Any, project: Path, tmp_path: Path
) -> None:
    first = start_server(tmp_path / "data")
    for name in ("good", "damaged"):
        assert first.create(first.deployment(name, "echo"), project).status == 200
    assert first.stop() == 0
    record = tmp_path / "data" / "damaged" / "deployment.json"
    record.write_text("{")
    second = start_server(tmp_path / "data")
    body = second.get("/status/").body
    assert body["deployments"] == ["good"]
    assert body["details"]["damaged"]["state"] == "failed"
    assert "create the deployment again" in body["details"]["damaged"]["problem"]
    assert second.run("good", text="x").body == "v1 x"


def test_settings_of_0_8_1s_environment_are_read(start_server: Any) -> None:
    failed = start_server(env={"LLAMA_DEPLOY_APISERVER_PORT": "many"})
    assert failed.stop() == 1
    assert "LLAMA_DEPLOY_APISERVER_PORT" in failed.tail()


def test_beyond_loopback_a_token_is_asked_for(start_server: Any) -> None:
    server = start_server(None, "--host", "0.0.0.0")
    assert server.stop() == 1
    assert "host '0.0.0.0' lets others deploy code" in server.tail()
    assert "or add --insecure-no-token" in server.tail()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("10.0.0.1", False), ("example.org", False),
    ],
)  # fmt: skip
def test_what_loopback_is(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_token_guards_everything_but_the_probes(start_server: Any, project: Path) -> None:
    server = start_server(None, "--host", "0.0.0.0", env={"LLAMA_DEPLOY_TOKEN": "s3cret-token"})
    for path in ("/", "/status/", "/deployments/", "/docs", "/ui/x/y", "/openapi.json"):
        reply = server.get(path)
        assert reply.status == 401
        assert "s3cret" not in str(reply.body)
    assert server.get("/healthz").status == 200
    server.headers["Authorization"] = "Bearer wrong"
    assert server.get("/status/").status == 401
    basic = base64.b64encode(b"x:s3cret-token").decode()
    server.headers["Authorization"] = f"Basic {basic}"
    assert server.get("/status/").status == 200
    server.headers["Authorization"] = "Bearer s3cret-token"
    assert server.create(server.deployment("guarded", "echo", "environment"), project).status == 200
    assert server.run("guarded", text="x").body == "v1 x"
    details = server.details("guarded")
    for part in ("control_plane", "message_queue"):
        url = f"http://127.0.0.1:{details[part]['port']}"
        assert server.get(f"{url}/", headers={"Authorization": "Bearer wrong"}).status == 401
        assert server.get(f"{url}/").status == 200
    hidden = server.run("guarded", "environment", name="LLAMA_DEPLOY_TOKEN")
    assert hidden.body == "unset"
    assert "s3cret" not in json.dumps(server.get("/status/").body)
    assert "s3cret" not in server.log.read_text()


def test_json_logs_are_json_line_by_line_workers_included(start_server: Any, project: Path) -> None:
    server = start_server(None, "--log-format", "json")
    assert server.create(server.deployment("logged", "suicide"), project).status == 200
    task = server.start_task("logged", "suicide")
    server.wait_until(lambda: "about to end" in server.log.read_text(), "the worker has spoken")
    path = f"/deployments/logged/tasks/{task['task_id']}/cancel?session_id={task['session_id']}"
    assert server.post(path).status == 200
    assert server.stop() == 0
    records = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"message": "about to end", "worker": "logged/suicide-0"} in records
    assert any(each.get("logger") == "llamadeploy.worker.process" for each in records)
