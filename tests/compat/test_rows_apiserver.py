"""Every row of the API server's wire contract: exact status and shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.compat

Call = Callable[..., Any]
NOT_FOUND = {"detail": "Deployment not found"}
NO_SERVICE = {"detail": "Service is None and deployment has no default service"}
BLANK_TASK = {"input": "{}"}
EVENT = {"service_id": "ask", "event_obj_str": "{}"}

DEPLOYMENT_ROUTES = [
    ("GET", "", None),
    ("POST", "/tasks/run", BLANK_TASK),
    ("POST", "/tasks/create", BLANK_TASK),
    ("POST", "/tasks/t/events?session_id=s", EVENT),
    ("GET", "/tasks/t/events?session_id=s", None),
    ("GET", "/tasks/t/results?session_id=s", None),
    ("GET", "/tasks", None),
    ("GET", "/sessions", None),
    ("GET", "/sessions/s", None),
    ("POST", "/sessions/create", None),
    ("POST", "/sessions/delete?session_id=s", None),
]

MISSING_FIELDS = [
    ("/deployments/compat/tasks/run", {}),
    ("/deployments/compat/tasks/create", {"service_id": "echo"}),
    ("/deployments/compat/tasks/t/events?session_id=s", {"service_id": "echo"}),
    ("/deployments/compat/sessions/delete", None),
    ("/deployments/create", None),
]


@pytest.fixture(scope="module")
def url(server: Any) -> str:
    return str(server.api_url)


@pytest.fixture(scope="module")
def compat(url: str) -> str:
    """The root of the routes of the deployment `compat`."""
    return f"{url}/deployments/compat"


@pytest.fixture
def session(call: Call, compat: str) -> str:
    return str(call("POST", f"{compat}/sessions/create").json["session_id"])


def body(service: str | None = None, **kwargs: Any) -> dict[str, Any]:
    """A TaskDefinition as JSON, with only the fields that are set."""
    task = {"input": json.dumps(kwargs)}
    return task | {"service_id": service} if service else task


def test_root(call: Call, url: str) -> None:
    reply = call("GET", f"{url}/")
    assert reply.status == 200
    assert reply.json == {"swagger_docs": f"{url}/docs", "status": f"{url}/status"}


def test_status(call: Call, url: str) -> None:
    reply = call("GET", f"{url}/status/")
    assert reply.status == 200
    assert reply.json["status"] == "Healthy"
    assert reply.json["status_message"] == ""
    assert reply.json["max_deployments"] == 10
    assert "compat" in reply.json["deployments"]


def test_metrics(call: Call, url: str) -> None:
    """Prometheus text, or 204 without a body where metrics are off."""
    reply = call("GET", f"{url}/status/metrics")
    assert (reply.status, bool(reply.body)) in {(200, True), (204, False)}


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_documentation(call: Call, url: str, path: str) -> None:
    assert call("GET", f"{url}{path}").status == 200


@pytest.mark.parametrize("path", ["/status", "/deployments"])
def test_a_missing_slash_redirects(call: Call, url: str, path: str) -> None:
    reply = call("GET", f"{url}{path}")
    assert reply.status == 307
    assert reply.headers["location"] == f"{url}{path}/"


def test_a_slash_too_many_redirects(call: Call, compat: str) -> None:
    reply = call("GET", f"{compat}/tasks/")
    assert reply.status == 307
    assert reply.headers["location"] == f"{compat}/tasks"


def test_deployments(call: Call, url: str, compat: str) -> None:
    listed = call("GET", f"{url}/deployments/")
    assert (listed.status, listed.json) == (200, [{"name": "compat"}])
    one = call("GET", compat)
    assert (one.status, one.json) == (200, {"name": "compat"})


@pytest.mark.parametrize(("method", "path", "content"), DEPLOYMENT_ROUTES)
def test_unknown_deployment(call: Call, url: str, method: str, path: str, content: Any) -> None:
    reply = call(method, f"{url}/deployments/nobody{path}", content)
    assert (reply.status, reply.json) == (404, NOT_FOUND)


@pytest.mark.original_differs("proxies to port 3000, whatever listens there")
def test_a_deployment_without_a_ui_has_no_pages(call: Call, url: str) -> None:
    reply = call("GET", f"{url}/ui/compat/index.html")
    assert reply.status == 404
    assert "ui" in reply.json["detail"]


@pytest.mark.parametrize(("path", "content"), MISSING_FIELDS)
def test_a_missing_field_is_422(call: Call, url: str, path: str, content: Any) -> None:
    reply = call("POST", f"{url}{path}", content)
    assert reply.status == 422
    assert reply.json["detail"]


def test_malformed_json_is_422(call: Call, compat: str) -> None:
    assert call("POST", f"{compat}/tasks/run", b'{"input": ').status == 422


@pytest.mark.original_differs("an input that is no JSON object is a bare 500")
@pytest.mark.parametrize("text", ["not json", "[1]", '"text"'])
@pytest.mark.parametrize("path", ["run", "create"])
def test_an_input_that_is_no_json_object_is_refused(
    call: Call, compat: str, path: str, text: str
) -> None:
    reply = call("POST", f"{compat}/tasks/{path}", {"input": text, "service_id": "echo"})
    assert 400 <= reply.status < 500
    assert "input" in str(reply.json["detail"])


def test_run_answers_a_json_string(call: Call, compat: str) -> None:
    reply = call("POST", f"{compat}/tasks/run", body(message="row"))
    assert (reply.status, reply.body) == (200, b'"echo: row"')
    assert reply.headers["content-type"] == "application/json"


def test_run_of_an_unknown_service(call: Call, compat: str) -> None:
    reply = call("POST", f"{compat}/tasks/run", body("nobody"))
    assert reply.status == 404
    assert "nobody" in reply.json["detail"]


def test_run_in_the_session_of_the_query(call: Call, compat: str, session: str) -> None:
    path = f"{compat}/tasks/run?session_id={session}"
    assert [call("POST", path, body("counter")).json for _ in range(2)] == ["1", "2"]
    assert call("GET", f"{compat}/sessions/{session}").status == 200


@pytest.mark.original_differs("the body's session_id is ignored")
def test_run_in_the_session_of_the_body(call: Call, compat: str, session: str) -> None:
    task = body("counter") | {"session_id": session}
    assert [call("POST", f"{compat}/tasks/run", task).json for _ in range(2)] == ["1", "2"]


def test_the_session_of_the_query_goes_before_the_body(
    call: Call, compat: str, session: str
) -> None:
    task = body("echo") | {"session_id": "nobody"}
    reply = call("POST", f"{compat}/tasks/create?session_id={session}", task)
    assert (reply.status, reply.json["session_id"]) == (200, session)


@pytest.mark.original_differs("an unknown session is a bare 500")
@pytest.mark.parametrize(("method", "path", "content"), [
    ("POST", "/tasks/run?session_id=nobody", BLANK_TASK),
    ("POST", "/tasks/create?session_id=nobody", BLANK_TASK),
    ("POST", "/tasks/t/events?session_id=nobody", EVENT),
    ("GET", "/tasks/t/results?session_id=nobody", None),
    ("GET", "/sessions/nobody", None),
])  # fmt: skip
def test_unknown_session(call: Call, compat: str, method: str, path: str, content: Any) -> None:
    assert call(method, f"{compat}{path}", content).status == 404


def test_create_answers_the_definition_with_an_id_of_its_own(call: Call, compat: str) -> None:
    task = body("echo", message="x") | {"task_id": "mine"}
    reply = call("POST", f"{compat}/tasks/create", task)
    assert reply.status == 200
    assert set(reply.json) == {"input", "task_id", "session_id", "service_id"}
    assert reply.json["input"] == task["input"]
    assert reply.json["service_id"] == "echo"
    assert reply.json["task_id"] != "mine"
    assert call("GET", f"{compat}/sessions/{reply.json['session_id']}").status == 200


def test_create_fills_in_the_default_service(call: Call, compat: str) -> None:
    assert call("POST", f"{compat}/tasks/create", body()).json["service_id"] == "echo"


@pytest.mark.original_differs("knows no idempotency key")
def test_an_idempotency_key_creates_once(call: Call, compat: str, session: str) -> None:
    path = f"{compat}/tasks/create?session_id={session}"
    header = {"Idempotency-Key": f"key-{session}"}
    first, second = (call("POST", path, body("echo"), header) for _ in range(2))
    assert first.json["task_id"] == second.json["task_id"]
    assert call("POST", path, body("echo", message="other"), header).status == 409


def test_results(call: Call, compat: str, eventually: Callable[..., Any]) -> None:
    task = call("POST", f"{compat}/tasks/create", body("slow", seconds=1)).json
    path = f"{compat}/tasks/{task['task_id']}/results?session_id={task['session_id']}"
    early = call("GET", path)
    assert (early.status, early.json) == (200, None)
    assert eventually(lambda: call("GET", path).json) == {
        "task_id": task["task_id"],
        "history": [],
        "result": "slept",
        "data": {},
    }


@pytest.mark.original_differs("null, as for a task that is not ready: its client waits for ever")
def test_results_of_an_unknown_task(call: Call, compat: str, session: str) -> None:
    reply = call("GET", f"{compat}/tasks/nobody/results?session_id={session}")
    assert (reply.status, reply.json) == (404, {"detail": "Task not found"})


@pytest.mark.original_differs("a failure is not told apart from a result")
def test_a_failure_is_marked(call: Call, compat: str, eventually: Callable[..., Any]) -> None:
    task = call("POST", f"{compat}/tasks/create", body("fail")).json
    path = f"{compat}/tasks/{task['task_id']}/results?session_id={task['session_id']}"
    result = eventually(lambda: call("GET", path).json)
    assert result["result"].endswith("no luck")
    assert "ValueError" in json.dumps(result["data"])
    assert "Traceback" in json.dumps(result["data"])


def test_tasks(call: Call, compat: str, session: str) -> None:
    created = call("POST", f"{compat}/tasks/create?session_id={session}", body("echo")).json
    listed = call("GET", f"{compat}/tasks")
    assert listed.status == 200
    assert created in listed.json


@pytest.mark.original_differs("a result overtakes the tail of its stream", strict=False)
def test_events(call: Call, compat: str, eventually: Callable[..., Any]) -> None:
    task = call("POST", f"{compat}/tasks/create", body("streamer", n=2)).json
    path = f"{compat}/tasks/{task['task_id']}"
    query = f"?session_id={task['session_id']}"
    eventually(lambda: call("GET", f"{path}/results{query}").json)
    reply = call("GET", f"{path}/events{query}")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    assert reply.lines == [{"count": 0}, {"count": 1}, {"_data": {"note": "dynamic"}}, {}]


@pytest.mark.parametrize("module", ["workflows.events", "llama_index.core.workflow.events"])
@pytest.mark.parametrize("service", ["ask", "wait"])
def test_an_answer_under_both_names_of_its_type(
    call: Call, compat: str, eventually: Callable[..., Any], service: str, module: str
) -> None:
    task = call("POST", f"{compat}/tasks/create", body(service)).json
    path = f"{compat}/tasks/{task['task_id']}"
    query = f"?session_id={task['session_id']}"
    event = {
        "__is_pydantic": True,
        "value": {"_data": {"response": "yes"}},
        "qualified_name": f"{module}.HumanResponseEvent",
    }
    sent = {"service_id": service, "event_obj_str": json.dumps(event)}
    reply = call("POST", f"{path}/events{query}", sent)
    assert (reply.status, reply.json) == (200, sent)
    result = eventually(lambda: call("GET", f"{path}/results{query}").json)
    assert result["result"] == {"ask": "You are yes", "wait": "You said yes"}[service]


def test_sessions(call: Call, compat: str) -> None:
    created = call("POST", f"{compat}/sessions/create")
    assert created.status == 200
    assert created.json == {
        "session_id": created.json["session_id"],
        "task_ids": [],
        "state": {},
    }
    session = created.json["session_id"]
    call("POST", f"{compat}/tasks/run?session_id={session}", body("echo"))
    one = call("GET", f"{compat}/sessions/{session}")
    # The original always blanks `task_ids` and `state` here; ours may fill them.
    assert (one.status, set(one.json)) == (200, set(created.json))
    assert one.json["session_id"] == session
    assert session in ids(call("GET", f"{compat}/sessions"))
    for _ in range(2):
        deleted = call("POST", f"{compat}/sessions/delete?session_id={session}")
        assert (deleted.status, deleted.json) == (200, None)
    assert session not in ids(call("GET", f"{compat}/sessions"))


def test_no_service_and_no_default(
    call: Call, start_server: Callable[..., Any], service: Any
) -> None:
    """A server of its own: the deployment's file is stripped of its default service."""
    with start_server("plain", {"echo": service("workflow:echo")}) as server:
        text = server.deployment_file.read_text()
        content = text.replace("default-service: echo\n", "")
        assert content != text
        reply = call(
            "POST", f"{server.api_url}/deployments/create?base_path={server.folder}",
            multipart(content), {"content-type": "multipart/form-data; boundary=b"},
        )  # fmt: skip
        assert (reply.status, reply.json) == (200, {"name": "plain"})
        for path in ("run", "create"):
            reply = call("POST", f"{server.api_url}/deployments/plain/tasks/{path}", body())
            assert (reply.status, reply.json) == (400, NO_SERVICE)


def ids(reply: Any) -> list[str]:
    return [each["session_id"] for each in reply.json]


def multipart(content: str) -> bytes:
    disposition = 'form-data; name="config_file"; filename="deployment.yaml"'
    return f"--b\r\nContent-Disposition: {disposition}\r\n\r\n{content}\r\n--b--\r\n".encode()
