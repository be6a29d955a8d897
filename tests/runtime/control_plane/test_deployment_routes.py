"""Each row of the wire contract about a deployment's tasks and sessions."""

from __future__ import annotations

import json
from typing import Any

import pytest

D = "/deployments/quickstart"
INPUT = json.dumps({"message": "hello"})


async def test_run_returns_the_result_as_a_json_string(plane: Any) -> None:
    assert await plane.post(D + "/tasks/run", {"input": INPUT}) == "hello"


async def test_run_without_session_leaves_none_behind(plane: Any) -> None:
    await plane.post(D + "/tasks/run", {"input": INPUT})
    assert await plane.get(D + "/sessions") == []
    assert await plane.get(D + "/tasks") == []


async def test_run_in_a_session_keeps_it(plane: Any) -> None:
    session = await plane.session()
    await plane.post(f"{D}/tasks/run?session_id={session}", {"input": INPUT})
    assert len((await plane.get(f"{D}/sessions/{session}"))["task_ids"]) == 1


async def test_a_failed_run_is_200_with_its_text_and_stays_for_inspection(plane: Any) -> None:
    body = {"input": "{}", "service_id": "fail"}
    assert await plane.post(D + "/tasks/run", body) == "no good"
    (task,) = await plane.get(D + "/tasks")
    result = await plane.get(f"{D}/tasks/{task['task_id']}/results")
    assert result["data"]["error"]["type"] == "ValueError"


@pytest.mark.parametrize("route", ["run", "create"])
async def test_no_service_and_no_default_is_400(open_plane: Any, route: str) -> None:
    async with open_plane(default_service=None) as plane:
        reply = await plane.post(f"{D}/tasks/{route}", {"input": INPUT}, 400)
        assert reply["detail"] == "Service is None and deployment has no default service"


@pytest.mark.parametrize("route", ["run", "create"])
async def test_an_unknown_service_is_404(plane: Any, route: str) -> None:
    body = {"input": INPUT, "service_id": "none"}
    reply = await plane.post(f"{D}/tasks/{route}", body, 404)
    assert reply["detail"] == "Service 'none' not found in deployment 'quickstart'"
    assert await plane.get(D + "/sessions") == []


async def test_create_returns_the_whole_definition(plane: Any) -> None:
    reply = await plane.post(D + "/tasks/create", {"input": INPUT})
    assert set(reply) == {"input", "task_id", "session_id", "service_id"}
    assert (reply["input"], reply["service_id"]) == (INPUT, "echo")
    assert [s["session_id"] for s in await plane.get(D + "/sessions")] == [reply["session_id"]]
    assert await plane.get(D + "/tasks") == [reply]


@pytest.mark.parametrize("route", ["run", "create"])
@pytest.mark.rule(2)
async def test_the_bodys_task_id_does_not_count(plane: Any, route: str) -> None:
    body = {"input": INPUT, "task_id": "reused", "service_id": "echo"}
    for _ in range(2):
        await plane.post(f"{D}/tasks/{route}", body)
    assert "reused" not in [t["task_id"] for t in await plane.get(D + "/tasks")]


async def test_the_session_is_the_querys_else_the_bodys(plane: Any) -> None:
    one, two = await plane.session(), await plane.session()
    body = {"input": INPUT, "session_id": one}
    assert (await plane.post(f"{D}/tasks/create", body))["session_id"] == one
    path = f"{D}/tasks/create?session_id={two}"
    assert (await plane.post(path, {"input": INPUT}))["session_id"] == two
    assert (await plane.post(path, body))["session_id"] == two
    await plane.post(f"{D}/tasks/create?session_id=none", {"input": INPUT}, 404)


@pytest.mark.parametrize("route", ["run", "create"])
@pytest.mark.rule(2)
async def test_an_idempotency_key_makes_one_task(plane: Any, route: str) -> None:
    headers = {"Idempotency-Key": "order-7"}
    replies = [
        await plane.post(f"{D}/tasks/{route}", {"input": INPUT}, headers=headers) for _ in range(3)
    ]
    assert replies[0] == replies[1] == replies[2]
    assert len(await plane.get(D + "/tasks")) == 1
    other = {"input": json.dumps({"message": "other"})}
    await plane.post(f"{D}/tasks/{route}", other, 409, headers=headers)
    await plane.post(f"{D}/tasks/{route}", other, 422, headers={"Idempotency-Key": " "})


async def test_results_are_null_until_they_are_there(plane: Any) -> None:
    task = await plane.post(D + "/tasks/create", {"input": INPUT, "service_id": "slow"})
    path = f"{D}/tasks/{task['task_id']}/results?session_id={task['session_id']}"
    assert await plane.get(path) is None

    async def slow(_: Any) -> str:
        return "done"

    plane.workers.serve("slow", slow)
    assert (await plane.get(path + "&wait=10"))["result"] == "done"


async def test_events_are_ndjson_and_may_be_continued(plane: Any) -> None:
    task = await plane.post(D + "/tasks/create", {"input": INPUT})
    path = f"{D}/tasks/{task['task_id']}/events?session_id={task['session_id']}"
    assert await plane.lines(path) == [{"n": 0}, {"n": 1}, {}]
    assert await plane.lines(path + "&after=2") == [{}]
    await plane.get(f"{D}/tasks/none/events?session_id={task['session_id']}", 404)
    await plane.get(f"{D}/tasks/{task['task_id']}/events?session_id=none", 404)


async def test_sent_events_are_echoed(plane: Any) -> None:
    task = await plane.post(D + "/tasks/create", {"input": INPUT, "service_id": "ask"})
    path = f"{D}/tasks/{task['task_id']}/events?session_id={task['session_id']}"
    event = {"service_id": "ask", "event_obj_str": '{"value": {}}'}
    assert await plane.post(path, event) == event
    reply = await plane.post(path, {**event, "event_obj_str": "no"}, 422)
    assert "event_obj_str" in json.dumps(reply)
    await plane.post(path, {"service_id": "ask"}, 422)


async def test_status_and_cancel_need_no_session(plane: Any) -> None:
    task = await plane.post(D + "/tasks/create", {"input": INPUT, "service_id": "slow"})
    path = f"{D}/tasks/{task['task_id']}"
    assert (await plane.get(path))["state"] == "queued"
    assert (await plane.post(path + "/cancel"))["state"] == "cancelled"
    assert (await plane.get(path))["state"] == "cancelled"
    await plane.post(f"{D}/tasks/none/cancel", expect=404)


async def test_sessions_create_get_list_delete(plane: Any) -> None:
    session = await plane.post(D + "/sessions/create")
    assert (session["task_ids"], session["state"]) == ([], {})
    path = f"{D}/sessions/{session['session_id']}"
    assert await plane.get(path) == session
    delete = f"{D}/sessions/delete?session_id={session['session_id']}"
    for _ in range(2):
        assert await plane.post(delete) is None
    await plane.get(path, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tasks/run"),
        ("POST", "/tasks/create"),
        ("GET", "/tasks"),
        ("GET", "/tasks/t/events?session_id=s"),
        ("GET", "/tasks/t/results?session_id=s"),
        ("GET", "/sessions"),
        ("GET", "/sessions/s"),
        ("POST", "/sessions/create"),
        ("POST", "/sessions/delete?session_id=s"),
    ],
)
async def test_an_unknown_deployment_is_404(plane: Any, method: str, path: str) -> None:
    body = {"json": {"input": INPUT}} if method == "POST" else {}
    reply = await plane.call(method, "/deployments/none" + path, 404, **body)
    assert reply == {"detail": "Deployment not found"}


@pytest.mark.parametrize(
    ("body", "field"),
    [(b"", "body"), (b"{", "body"), (b"{}", "input"), (b'{"input": "5"}', "input")],
)
async def test_bad_bodies_are_422_and_name_the_field(plane: Any, body: bytes, field: str) -> None:
    reply = await plane.call("POST", D + "/tasks/run", 422, data=body)
    (problem,) = reply["detail"]
    assert field in problem["loc"]
    assert problem["msg"]
