"""Every row of the control plane's and the simple queue's wire contract: status and shape."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.compat

Call = Callable[..., Any]
NO_SESSION = {"detail": "Session not found"}

SESSION_ROUTES = [
    ("GET", "/sessions/nobody", None),
    ("POST", "/sessions/nobody/tasks", {"input": "{}", "service_id": "echo"}),
    ("GET", "/sessions/nobody/tasks", None),
    ("GET", "/sessions/nobody/current_task", None),
    ("GET", "/sessions/nobody/tasks/t/result", None),
    ("GET", "/sessions/nobody/tasks/t/result_stream", None),
    ("GET", "/sessions/nobody/state", None),
    ("POST", "/sessions/nobody/state", {}),
]


@pytest.fixture(scope="module")
def url(server: Any) -> str:
    return str(server.control_plane_url)


@pytest.fixture
def session(call: Call, url: str) -> str:
    return str(call("POST", f"{url}/sessions/create").json)


def task(session: str, service: str = "echo", **kwargs: Any) -> dict[str, Any]:
    """A complete TaskDefinition with a fresh id."""
    return {
        "input": json.dumps(kwargs),
        "task_id": str(uuid.uuid4()),
        "session_id": session,
        "service_id": service,
    }


def test_root(call: Call, url: str) -> None:
    reply = call("GET", f"{url}/")
    assert reply.status == 200
    assert set(reply.json) == {
        "running",
        "step_interval",
        "services_store_key",
        "tasks_store_key",
        "session_store_key",
    }
    assert all(isinstance(value, str) for value in reply.json.values())
    assert reply.json["running"] == "True"
    assert reply.json["step_interval"] == "0.1"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_documentation(call: Call, url: str, path: str) -> None:
    assert call("GET", f"{url}{path}").status == 200


def test_queue_config(call: Call, server: Any, url: str) -> None:
    reply = call("GET", f"{url}/queue_config")
    assert reply.status == 200
    assert list(reply.json) == ["SimpleMessageQueueConfig"]
    config = reply.json["SimpleMessageQueueConfig"]
    assert f"http://{config['host']}:{config['port']}" == server.queue_url


def test_process_message_takes_a_new_task(
    call: Call, url: str, session: str, eventually: Callable[..., Any]
) -> None:
    new = task(session, message="by message")
    message = {"type": "control_plane", "action": "new_task", "data": new}
    reply = call("POST", f"{url}/process_message", message)
    assert (reply.status, reply.json) == (200, None)
    path = f"{url}/sessions/{session}/tasks/{new['task_id']}/result"
    assert eventually(lambda: call("GET", path).json)["result"] == "echo: by message"


def test_services(call: Call, url: str) -> None:
    definition = {"service_name": "row", "description": "d", "host": None, "port": None}
    registered = call("POST", f"{url}/services/register", definition)
    assert registered.status == 200
    assert {
        "services_store_key", "tasks_store_key", "session_store_key", "step_interval",
        "host", "port", "running", "topic_namespace",
    } <= set(registered.json)  # fmt: skip
    one = call("GET", f"{url}/services/row")
    assert one.status == 200
    # Ours may tell more; a client of 0.8.1 ignores what it does not know.
    expected: dict[str, Any] = definition | {"prompt": []}
    assert {key: one.json[key] for key in expected} == expected
    assert call("GET", f"{url}/services").json["row"] == one.json
    for _ in range(2):
        gone = call("POST", f"{url}/services/deregister?service_name=row")
        assert (gone.status, gone.json) == (200, None)
    absent = call("GET", f"{url}/services/row")
    assert (absent.status, absent.json) == (404, {"detail": "Service not found"})


@pytest.mark.parametrize(("path", "content"), [
    ("/services/register", {"description": "d"}),
    ("/services/deregister", None),
    ("/sessions/s/tasks", {"service_id": "echo"}),
    ("/sessions/s/tasks/t/send_event", {"service_id": "echo"}),
    ("/process_message", []),
])  # fmt: skip
def test_a_missing_field_is_422(call: Call, url: str, path: str, content: Any) -> None:
    reply = call("POST", f"{url}{path}", content)
    assert reply.status == 422
    assert reply.json["detail"]


def test_sessions(call: Call, url: str) -> None:
    created = call("POST", f"{url}/sessions/create")
    assert created.status == 200
    session = created.json
    assert isinstance(session, str)
    expected = {"session_id": session, "task_ids": [], "state": {}}
    one = call("GET", f"{url}/sessions/{session}")
    assert (one.status, one.json) == (200, expected)
    assert call("GET", f"{url}/sessions").json[session] == expected
    for _ in range(2):
        gone = call("POST", f"{url}/sessions/{session}/delete")
        assert (gone.status, gone.json) == (200, None)
    assert session not in call("GET", f"{url}/sessions").json


@pytest.mark.parametrize(("method", "path", "content"), SESSION_ROUTES)
def test_unknown_session(call: Call, url: str, method: str, path: str, content: Any) -> None:
    reply = call(method, f"{url}{path}", content)
    assert (reply.status, reply.json) == (404, NO_SESSION)


def test_tasks(call: Call, url: str, session: str) -> None:
    root = f"{url}/sessions/{session}"
    current = call("GET", f"{root}/current_task")
    assert (current.status, current.json) == (200, None)
    first, second = task(session, message="1"), task(session, message="2")
    for each in (first, second):
        created = call("POST", f"{root}/tasks", each)
        assert (created.status, created.json) == (200, each["task_id"])
    listed = call("GET", f"{root}/tasks")
    assert (listed.status, listed.json) == (200, [first, second])
    assert call("GET", f"{root}/current_task").json == second
    assert call("GET", root).json["task_ids"] == [first["task_id"], second["task_id"]]


def test_a_task_of_another_session_is_refused(call: Call, url: str, session: str) -> None:
    reply = call("POST", f"{url}/sessions/{session}/tasks", task("other"))
    assert reply.status == 400
    assert reply.json == {
        "detail": f"Wrong task definition: task.session_id is other but should be {session}"
    }


@pytest.mark.original_differs("a repeated id is appended and run again")
def test_a_repeated_task_is_the_same_task(call: Call, url: str, session: str) -> None:
    new = task(session)
    path = f"{url}/sessions/{session}/tasks"
    assert [call("POST", path, new).json for _ in range(2)] == [new["task_id"]] * 2
    assert call("GET", path).json == [new]
    assert call("POST", path, new | {"input": '{"message": "other"}'}).status == 409


def test_result(call: Call, url: str, session: str, eventually: Callable[..., Any]) -> None:
    new = task(session, "slow", seconds=1.5)
    call("POST", f"{url}/sessions/{session}/tasks", new)
    path = f"{url}/sessions/{session}/tasks/{new['task_id']}/result"
    early = call("GET", path)
    assert (early.status, early.json) == (200, None)
    assert eventually(lambda: call("GET", path).json) == {
        "task_id": new["task_id"],
        "history": [],
        "result": "slept",
        "data": {},
    }


@pytest.mark.original_differs("null, as for a task that is not ready: its client waits for ever")
def test_result_of_an_unknown_task(call: Call, url: str, session: str) -> None:
    reply = call("GET", f"{url}/sessions/{session}/tasks/nobody/result")
    assert (reply.status, reply.json) == (404, {"detail": "Task not found"})


@pytest.mark.original_differs("a result overtakes the tail of its stream", strict=False)
def test_result_stream_replays(
    call: Call, url: str, session: str, eventually: Callable[..., Any]
) -> None:
    new = task(session, "streamer", n=2)
    call("POST", f"{url}/sessions/{session}/tasks", new)
    path = f"{url}/sessions/{session}/tasks/{new['task_id']}"
    eventually(lambda: call("GET", f"{path}/result").json)
    for _ in range(2):
        reply = call("GET", f"{path}/result_stream")
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("application/x-ndjson")
        assert reply.lines == [{"count": 0}, {"count": 1}, {"_data": {"note": "dynamic"}}, {}]


def test_send_event(call: Call, url: str, session: str, eventually: Callable[..., Any]) -> None:
    new = task(session, "ask")
    call("POST", f"{url}/sessions/{session}/tasks", new)
    path = f"{url}/sessions/{session}/tasks/{new['task_id']}"
    event = {
        "__is_pydantic": True,
        "value": {"_data": {"response": "9"}},
        "qualified_name": "workflows.events.HumanResponseEvent",
    }
    sent = {"service_id": "ask", "event_obj_str": json.dumps(event)}
    reply = call("POST", f"{path}/send_event", sent)
    assert (reply.status, reply.json) == (200, None)
    assert eventually(lambda: call("GET", f"{path}/result").json)["result"] == "You are 9"


def test_state_merges_at_the_top_level(call: Call, url: str, session: str) -> None:
    path = f"{url}/sessions/{session}/state"
    assert call("GET", path).json == {}
    for part in ({"a": {"x": 1}, "b": 1}, {"a": {"y": 2}}):
        reply = call("POST", path, part)
        assert (reply.status, reply.json) == (200, None)
    assert call("GET", path).json == {"a": {"y": 2}, "b": 1}
    assert call("GET", f"{url}/sessions/{session}").json["state"] == {"a": {"y": 2}, "b": 1}


def test_queue(call: Call, server: Any) -> None:
    url = server.queue_url
    topic = f"row.{uuid.uuid4()}"
    missing = {"detail": f"topic {topic} not found"}
    home = call("GET", f"{url}/").json
    assert set(home) == {"service_name", "description"}
    assert home["service_name"] == "message_queue"
    for method in ("GET", "POST"):
        reply = call(method, f"{url}/messages/{topic}", {"type": "row"})
        assert (reply.status, reply.json) == (404, missing)
    for _ in range(2):
        made = call("POST", f"{url}/topics/{topic}")
        assert (made.status, made.json) == (200, None)
    empty = call("GET", f"{url}/messages/{topic}")
    assert (empty.status, empty.json) == (200, None)
    sent = {"id_": "m1", "action": "new_task", "type": "row", "data": {"k": [1]}}
    put = call("POST", f"{url}/messages/{topic}", sent)
    assert (put.status, put.json) == (200, None)
    got = call("GET", f"{url}/messages/{topic}").json
    assert set(got) == {"id_", "publisher_id", "data", "action", "stats", "type"}
    assert set(got["stats"]) == {"publish_time", "process_start_time", "process_end_time"}
    assert {key: got[key] for key in sent} == sent
    assert call("GET", f"{url}/messages/{topic}").json is None
