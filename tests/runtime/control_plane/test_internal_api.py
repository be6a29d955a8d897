"""The internal API as bytes on the wire: batches, malformed bodies, calls, results."""

from __future__ import annotations

import json

import aiohttp
import pytest

from llamadeploy.control_plane.app import control_plane_app
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.http.serving import HttpServer
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import ServiceDefinition, TaskDefinition

EXECUTE = "/internal/v1/execute"


@pytest.fixture
async def control_plane():
    store = await open_store("memory://", "tests.internal")
    plane = ControlPlane(store, LocalMessageQueue(), name="d", namespace="tests.internal")
    await plane.start()
    for name in ("caller", "called"):
        await plane.register_service(ServiceDefinition(service_name=name))
    yield plane
    await plane.stop()
    await store.aclose()


@pytest.fixture
async def http(control_plane):
    async with (
        HttpServer(control_plane_app(control_plane)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        yield session


async def post(http, path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post(path, data=data) as response:
        return response.status, await response.json()


def start(task_id, execution_id="e"):
    return {
        "op": "start",
        "request": {
            "task_id": task_id,
            "execution_id": execution_id,
            "worker_id": "w",
            "lease": 60.0,
            "a_field_of_a_later_release": 1,
        },
    }


def finish(task_id, result="done", attempt=1):
    key = {"task_id": task_id, "attempt": attempt}
    return {"op": "finish", "request": {"key": key, "state": "succeeded", "result": result}}


async def new_task(control_plane, service="caller", session_id=None):
    task = TaskDefinition(input="{}", service_id=service)
    created = await control_plane.create_task(
        task, session_id=session_id, new_session=session_id is None
    )
    return created


async def test_a_batch_is_answered_in_its_order(control_plane, http):
    created = await new_task(control_plane)
    status, answers = await post(http, EXECUTE, [start("?"), start(created.task_id)])
    assert status == 200
    assert answers[0]["ok"] == {"type": "dropped", "reason": "unknown"}
    assert answers[1]["ok"]["type"] == "execution"
    assert answers[1]["ok"]["attempt"] == 1
    status, answers = await post(http, EXECUTE, [finish(created.task_id)])
    assert answers == [{"ok": {"accepted": True, "publish": []}}]
    async with http.get(f"/internal/v1/results/{created.task_id}?wait=5") as response:
        assert (await response.json())["result"] == "done"


async def test_what_a_result_sets_free_is_published(control_plane, http):
    session = await control_plane.create_session()
    first = await new_task(control_plane, session_id=session)
    second = await new_task(control_plane, session_id=session)
    depth = await control_plane.queue.depth("tests.internal.caller")
    assert depth == 1
    await post(http, EXECUTE, [start(first.task_id)])
    await post(http, EXECUTE, [finish(first.task_id)])
    assert await control_plane.queue.depth("tests.internal.caller") == 2
    _, answers = await post(http, EXECUTE, [start(second.task_id)])
    assert answers[0]["ok"]["task_id"] == second.task_id


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "list of operations"),
        (b"{", "list of operations"),
        (b'{"op": "start"}', "list of operations"),
        (b'[{"op": "start"}]', "request"),
        (b'["start"]', "list of operations"),
        (b"\xff\xfe", "list of operations"),
    ],
)
async def test_a_malformed_body_is_refused(http, body, says):
    status, answer = await post(http, EXECUTE, body)
    assert status == 400
    assert says in answer["detail"]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"op": "drop_table", "request": {}}, "unknown operation"),
        ({"op": "create_task", "request": {}}, "unknown operation"),
        ({"op": "start", "request": {}}, "task_id"),
        ({"op": "renew", "request": {"worker_id": 1, "keys": [], "lease": 1}}, "worker_id"),
        ({"op": "finish", "request": {"key": {"task_id": "t", "attempt": 1}}}, "state"),
    ],
)
async def test_a_malformed_operation_leaves_its_neighbours_alone(control_plane, http, item, says):
    created = await new_task(control_plane)
    status, answers = await post(http, EXECUTE, [item, start(created.task_id)])
    assert status == 200
    assert answers[0]["error"]["type"] == "StoreError"
    assert says in answers[0]["error"]["message"]
    assert answers[1]["ok"]["task_id"] == created.task_id


async def test_a_hundred_malformed_requests_leave_it_working(control_plane, http):
    for number in range(100):
        status, _ = await post(http, EXECUTE, b"[" * number)
        assert status == 400
    created = await new_task(control_plane)
    _, answers = await post(http, EXECUTE, [start(created.task_id)])
    assert answers[0]["ok"]["attempt"] == 1


async def test_a_call_makes_one_child_however_often_it_is_repeated(control_plane, http):
    parent = await new_task(control_plane)
    await post(http, EXECUTE, [start(parent.task_id)])
    body = {
        "parent": {"task_id": parent.task_id, "attempt": 1},
        "call_key": "k",
        "service": "called",
        "arguments": {"text": "x"},
    }
    replies = [await post(http, "/internal/v1/call", body) for _ in range(3)]
    assert {status for status, _ in replies} == {200}
    assert len({reply["task_id"] for _, reply in replies}) == 1
    child = replies[0][1]["task_id"]
    async with http.get(f"/internal/v1/results/{child}?wait=0") as response:
        assert await response.json() is None
    await post(http, EXECUTE, [start(child), finish(child, "the child's")])
    async with http.get(f"/internal/v1/results/{child}?wait=5") as response:
        assert (await response.json())["result"] == "the child's"


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"service": "nobody"}, 404, "NotFoundError"),
        ({"parent": {"task_id": "?", "attempt": 1}}, 409, "ConflictError"),
        ({"arguments": []}, 400, None),
    ],
)
async def test_a_wrong_call_says_why(control_plane, http, change, status, kind):
    parent = await new_task(control_plane)
    await post(http, EXECUTE, [start(parent.task_id)])
    body = {
        "parent": {"task_id": parent.task_id, "attempt": 1},
        "call_key": "k",
        "service": "called",
        "arguments": {},
    } | change
    answered, answer = await post(http, "/internal/v1/call", body)
    assert (answered, answer.get("type")) == (status, kind)
    assert answer["detail"]


async def test_a_result_of_nobody_is_404_and_a_wrong_wait_is_400(control_plane, http):
    async with http.get("/internal/v1/results/nobody") as response:
        assert response.status == 404
    created = await new_task(control_plane)
    async with http.get(f"/internal/v1/results/{created.task_id}?wait=soon") as response:
        assert response.status == 400
