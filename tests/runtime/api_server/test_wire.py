"""The API server's rows of the wire contract, over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FILE = "--XX\r\nContent-Disposition: form-data; name={}; filename=f\r\n\r\nx\r\n--XX--\r\n"


@pytest.fixture(scope="module")
def wire(server: Any, project: Path) -> Any:
    """The module's server with a deployment ``wire``: services ``echo`` (default) and ``ask``."""
    reply = server.create(server.deployment("wire", "echo", "ask"), project)
    assert (reply.status, reply.body) == (200, {"name": "wire"}), reply
    return server


def test_root_names_documentation_and_status(wire: Any) -> None:
    assert wire.get("/").body == {
        "swagger_docs": f"{wire.url}/docs",
        "status": f"{wire.url}/status",
    }
    assert wire.get("/docs").status == 200
    assert "/deployments/create" in wire.get("/openapi.json").body["paths"]


def test_status_has_0_8_1s_fields_and_details(wire: Any) -> None:
    body = wire.get("/status/").body
    assert body["status"] == "Healthy"
    assert body["status_message"] == ""
    assert body["max_deployments"] == 10
    assert body["deployments"] == ["wire"]
    details = body["details"]["wire"]
    assert details["state"] == "ready"
    echo = details["services"]["echo"]
    assert (echo["state"], echo["replicas"], echo["ready_replicas"]) == ("ready", 1, 1)
    assert (echo["restarts"], echo["last_error"]) == (0, None)
    port = details["control_plane"]["port"]
    assert wire.get(f"http://127.0.0.1:{port}/").status == 200


def test_metrics_are_served_in_two_places(wire: Any) -> None:
    for path in ("/status/metrics", "/metrics"):
        reply = wire.get(path)
        assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain")
        assert 'llamadeploy_tasks_in_flight{deployment="wire"}' in reply.body


def test_deployments_are_listed_and_found(wire: Any) -> None:
    assert wire.get("/deployments/").body == [{"name": "wire"}]
    assert wire.get("/deployments/wire").body == {"name": "wire"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/tasks/run", {"input": "{}"}),
        ("POST", "/tasks/create", {"input": "{}"}),
        ("GET", "/tasks", None),
        ("GET", "/tasks/t/results?session_id=s", None),
        ("GET", "/tasks/t/events?session_id=s", None),
        ("POST", "/tasks/t/events?session_id=s", {"service_id": "e", "event_obj_str": "{}"}),
        ("GET", "/sessions", None),
        ("GET", "/sessions/s", None),
        ("POST", "/sessions/create", None),
        ("POST", "/sessions/delete?session_id=s", None),
    ],
)
def test_an_unknown_deployment_is_404_everywhere(
    wire: Any, method: str, path: str, body: Any
) -> None:
    reply = wire.request(method, f"/deployments/nobody{path}", body)
    assert (reply.status, reply.body) == (404, {"detail": "Deployment not found"})


def test_run_returns_the_result_as_a_json_string(wire: Any) -> None:
    assert wire.run("wire", text="hello").body == "v1 hello"
    assert wire.run("wire", "echo", text="hello").body == "v1 hello"


def test_an_unknown_service_is_404(wire: Any) -> None:
    reply = wire.run("wire", "nobody")
    assert (reply.status, reply.detail) == (404, "Service 'nobody' not found in deployment 'wire'")


def test_a_created_task_is_listed_streams_and_has_a_result(wire: Any) -> None:
    task = wire.start_task("wire", "echo", text="x")
    result = wire.result("wire", task)
    assert (result["task_id"], result["result"]) == (task["task_id"], "v1 x")
    path = f"/deployments/wire/tasks/{task['task_id']}"
    stream = wire.get(f"{path}/events?session_id={task['session_id']}")
    assert stream.headers["content-type"] == "application/x-ndjson"
    assert task["task_id"] in [each["task_id"] for each in wire.get("/deployments/wire/tasks").body]
    assert wire.get(f"/deployments/wire/sessions/{task['session_id']}").status == 200


def test_a_question_is_answered(wire: Any) -> None:
    task = wire.start_task("wire", "ask")
    event = {
        "__is_pydantic": True,
        "value": {"_data": {"response": "you"}},
        "qualified_name": "workflows.events.HumanResponseEvent",
    }
    body = {"service_id": "ask", "event_obj_str": json.dumps(event)}
    path = f"/deployments/wire/tasks/{task['task_id']}/events?session_id={task['session_id']}"
    assert wire.post(path, body).body == body
    assert wire.result("wire", task)["result"] == "hello you"


def test_sessions_are_made_and_deleted(wire: Any) -> None:
    session = wire.post("/deployments/wire/sessions/create").body
    assert (session["task_ids"], session["state"]) == ([], {})
    name = session["session_id"]
    assert name in [each["session_id"] for each in wire.get("/deployments/wire/sessions").body]
    deleted = wire.post(f"/deployments/wire/sessions/delete?session_id={name}")
    assert (deleted.status, deleted.body) == (200, None)
    assert wire.get(f"/deployments/wire/sessions/{name}").status == 404


def test_no_service_and_no_default_is_400(wire: Any, project: Path) -> None:
    file = wire.deployment("undefaulted", "echo")
    del file["default-service"]
    assert wire.create(file, project).status == 200
    reply = wire.run("undefaulted")
    assert reply.status == 400
    assert reply.detail == "Service is None and deployment has no default service"
    assert wire.request("DELETE", "/deployments/undefaulted").status == 200


def test_probes_answer(wire: Any) -> None:
    assert wire.get("/healthz").body == {"status": "ok"}
    assert wire.get("/readyz").body == {"status": "ok", "reasons": []}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_deployment_without_a_user_interface(wire: Any, method: str) -> None:
    reply = wire.request(method, "/ui/wire/page/one")
    assert reply.status == 404
    assert reply.detail == "deployment 'wire' has no user interface; add 'ui' to its file"


def test_create_without_a_file_is_422(wire: Any) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=XX"}
    for body in (b"--XX--\r\n", FILE.format("other").encode()):
        reply = wire.post("/deployments/create", body, headers=headers)
        assert reply.status == 422
        assert reply.body["detail"][0]["loc"] == ["body", "config_file"]


def test_too_large_a_file_is_413(wire: Any) -> None:
    reply = wire.create(b"#" * (9 * 2**20))
    assert (reply.status, reply.detail) == (413, "config_file: it is larger than 8 MiB; send less")


def test_a_browser_of_another_origin_gets_no_permission(wire: Any) -> None:
    reply = wire.get("/status/", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in reply.headers
