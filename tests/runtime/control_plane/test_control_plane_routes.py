"""Each row of the wire contract's control plane."""

from __future__ import annotations

import json
from typing import Any

import pytest

INPUT = json.dumps({"message": "hello"})


async def test_home_tells_five_strings(plane: Any) -> None:
    home = await plane.get("/")
    assert home == {
        "running": "True",
        "step_interval": "0.1",
        "services_store_key": "services",
        "tasks_store_key": "tasks",
        "session_store_key": "sessions",
    }


@pytest.mark.defect(22)
async def test_queue_config_has_the_class_name_and_no_credentials(plane: Any) -> None:
    from llamadeploy.message_queues.config import RabbitMQMessageQueueConfig

    plane.control_plane.queue_config = RabbitMQMessageQueueConfig(
        url="amqp://user:hunter2@broker/", username="user", password="hunter2"
    )
    reply = await plane.get("/queue_config")
    assert list(reply) == ["RabbitMQMessageQueueConfig"]
    assert reply["RabbitMQMessageQueueConfig"]["exchange_name"] == "llama-deploy"
    assert "hunter2" not in json.dumps(reply)


async def test_services_register_list_get_deregister(plane: Any) -> None:
    definition = {"service_name": "new", "description": "d", "prompt": [], "host": "h", "port": 1}
    config = await plane.post("/services/register", definition)
    assert config["topic_namespace"] == "llama_deploy.test"
    assert config["step_interval"] == 0.1
    services = await plane.get("/services")
    assert services["new"]["host"] == "h"
    assert "echo" in services  # declared, not registered yet
    assert (await plane.get("/services/new"))["description"] == "d"
    for _ in range(2):
        assert await plane.post("/services/deregister?service_name=new") is None
    assert await plane.get("/services/new", 404) == {"detail": "Service not found"}


@pytest.mark.defect(22)
async def test_register_never_returns_the_stores_password(open_plane: Any) -> None:
    from llamadeploy.control_plane.config import ControlPlaneConfig

    config = ControlPlaneConfig(state_store_uri="redis://:hunter2@host")
    async with open_plane(config=config) as plane:
        reply = await plane.post("/services/register", {"service_name": "s"})
        assert reply["state_store_uri"] is None
        assert "hunter2" not in repr(config)


async def test_sessions_create_list_get_delete(plane: Any) -> None:
    session = await plane.post("/sessions/create")
    assert isinstance(session, str)
    assert (await plane.get("/sessions"))[session]["session_id"] == session
    assert await plane.get(f"/sessions/{session}") == {
        "session_id": session,
        "task_ids": [],
        "state": {},
    }
    for _ in range(2):
        assert await plane.post(f"/sessions/{session}/delete") is None
    assert await plane.get(f"/sessions/{session}", 404) == {"detail": "Session not found"}


async def test_a_task_keeps_the_clients_id(plane: Any) -> None:
    session = await plane.session()
    body = {"input": INPUT, "task_id": "mine", "service_id": "echo"}
    assert await plane.post(f"/sessions/{session}/tasks", body) == "mine"
    tasks = await plane.get(f"/sessions/{session}/tasks")
    assert tasks == [
        {"input": INPUT, "task_id": "mine", "session_id": session, "service_id": "echo"}
    ]
    assert (await plane.get(f"/sessions/{session}"))["task_ids"] == ["mine"]


@pytest.mark.rule(2)
async def test_the_same_id_again_is_the_same_task_and_another_body_a_conflict(plane: Any) -> None:
    session = await plane.session()
    body = {"input": INPUT, "task_id": "mine", "service_id": "echo"}
    for _ in range(2):
        assert await plane.post(f"/sessions/{session}/tasks", body) == "mine"
    other = {**body, "input": json.dumps({"message": "other"})}
    assert "mine" in (await plane.post(f"/sessions/{session}/tasks", other, 409))["detail"]
    assert len(await plane.get(f"/sessions/{session}/tasks")) == 1


async def test_a_task_for_an_unknown_session_is_404(plane: Any) -> None:
    body = {"input": INPUT, "service_id": "echo"}
    reply = await plane.post("/sessions/none/tasks", body, 404)
    assert "ession" in reply["detail"]
    assert await plane.get("/sessions/none/tasks", 404)
    assert await plane.get("/sessions/none/current_task", 404) == {"detail": "Session not found"}


async def test_a_task_of_another_session_is_400(plane: Any) -> None:
    session = await plane.session()
    body = {"input": INPUT, "service_id": "echo", "session_id": "X"}
    reply = await plane.post(f"/sessions/{session}/tasks", body, 400)
    assert reply["detail"] == (
        f"Wrong task definition: task.session_id is X but should be {session}"
    )


async def test_current_task_is_the_newest_or_null(plane: Any) -> None:
    session = await plane.session()
    assert await plane.get(f"/sessions/{session}/current_task") is None
    await plane.task(session, message="first")
    newest = await plane.task(session, message="second")
    current = await plane.get(f"/sessions/{session}/current_task")
    assert current["task_id"] == newest
    assert json.loads(current["input"]) == {"message": "second"}


async def test_result_is_a_task_result(plane: Any) -> None:
    session = await plane.session()
    task = await plane.task(session, message="hello")
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result == {"task_id": task, "history": [], "result": "hello", "data": {}}


async def test_a_failure_is_a_result_and_is_marked(plane: Any) -> None:
    session = await plane.session()
    task = await plane.task(session, "fail")
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "no good"
    assert result["data"]["state"] == "failed"
    assert result["data"]["error"]["type"] == "ValueError"


async def test_result_is_null_until_it_is_there_and_404_without_session_or_task(
    plane: Any,
) -> None:
    session = await plane.session()
    task = await plane.task(session, "later")  # no such service yet: it waits for it
    assert await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=0") is None
    assert await plane.get(f"/sessions/none/tasks/{task}/result", 404) == {
        "detail": "Session not found"
    }
    assert await plane.get(f"/sessions/{session}/tasks/none/result", 404) == {
        "detail": "Task not found"
    }
    other = await plane.session()
    assert await plane.get(f"/sessions/{other}/tasks/{task}/result", 404)


@pytest.mark.defect(7)
async def test_a_task_sent_before_its_service_runs_when_it_comes(plane: Any) -> None:
    async def late(job: Any) -> str:
        return f"late {job.arguments['message']}"

    session = await plane.session()
    task = await plane.task(session, "later", message="hello")
    plane.workers.serve("later", late)
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "late hello"


async def test_result_stream_is_ndjson_and_replays_for_everybody(plane: Any) -> None:
    session = await plane.session()
    task = await plane.task(session, message="hello")
    path = f"/sessions/{session}/tasks/{task}/result_stream"
    for _ in range(2):
        assert await plane.lines(path) == [{"n": 0}, {"n": 1}, {}]
    async with plane.http.get(plane.url + path) as response:
        assert response.headers["content-type"].startswith("application/x-ndjson")
    assert await plane.get(f"/sessions/{session}/tasks/none/result_stream", 404) == {
        "detail": "Task stream not found"
    }
    assert await plane.get(f"/sessions/none/tasks/{task}/result_stream", 404) == {
        "detail": "Session not found"
    }


async def test_typed_streams_have_seq_attempt_index_and_continue(plane: Any) -> None:
    session = await plane.session()
    task = await plane.task(session, message="hello")
    path = f"/sessions/{session}/tasks/{task}/result_stream"
    lines = await plane.lines(path + "?format=typed")
    assert lines[0] == {"seq": 1, "attempt": 1, "index": 0, "type": "Event", "data": {"n": 0}}
    assert [line["seq"] for line in await plane.lines(path + "?format=typed&after=1")] == [2, 3]
    async with plane.http.get(
        plane.url + path, headers={"Accept": "text/event-stream", "Last-Event-ID": "2"}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        message = (await response.text()).strip().splitlines()
    assert message[:2] == ["id: 3", "event: Event"]
    assert json.loads(message[2].removeprefix("data: "))["index"] == 2


async def test_send_event_reaches_the_log_and_nudges_the_worker(plane: Any) -> None:
    from llamadeploy.worker.operations import InboundRequest

    seen: list[str] = []

    async def ask(job: Any) -> str:
        await job.nudged.wait()
        request = InboundRequest(job.execution.key, 0)
        seen.extend(e.event for e in await job.control_plane.execute("read_inbound", request))
        return "asked"

    plane.workers.serve("ask", ask)
    session = await plane.session()
    task = await plane.task(session, "ask")
    event = {"service_id": "ask", "event_obj_str": '{"value": {}}'}

    async def runs() -> bool:
        status = await plane.get(f"/sessions/{session}/tasks/{task}")
        return bool(status["state"] == "running")

    from asyncio import sleep, timeout

    async with timeout(10):
        while not await runs():
            await sleep(0.005)
    assert await plane.post(f"/sessions/{session}/tasks/{task}/send_event", event) is None
    await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert seen == ['{"value": {}}']
    # Clients of 0.8.1 know no error for an event that comes too late.
    path = f"{plane.url}/sessions/{session}/tasks/{task}/send_event"
    async with plane.http.post(path, json=event) as response:
        assert await response.json() is None
        assert response.headers["X-Task-State"] == "succeeded"


@pytest.mark.rule(6)
async def test_an_event_before_the_task_starts_is_kept(plane: Any) -> None:
    session = await plane.session()
    task = await plane.task(session, "ask")
    event = {"service_id": "ask", "event_obj_str": '{"value": {}}'}
    assert await plane.post(f"/sessions/{session}/tasks/{task}/send_event", event) is None

    async def ask(job: Any) -> str:
        return job.execution.inbound[0].event

    plane.workers.serve("ask", ask)
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == '{"value": {}}'


async def test_state_is_merged_shallowly(plane: Any) -> None:
    session = await plane.session()
    assert await plane.post(f"/sessions/{session}/state", {"a": {"x": 1}, "b": 1}) is None
    assert await plane.post(f"/sessions/{session}/state", {"a": {"y": 2}}) is None
    assert await plane.get(f"/sessions/{session}/state") == {"a": {"y": 2}, "b": 1}
    assert await plane.get("/sessions/none/state", 404)
    assert await plane.post("/sessions/none/state", {}, 404)


async def test_status_and_cancel(plane: Any) -> None:
    session = await plane.session()
    task = await plane.task(session, "later")
    status = await plane.get(f"/sessions/{session}/tasks/{task}")
    assert (status["state"], status["service_id"], status["attempts"]) == ("queued", "later", 0)
    outcome = await plane.post(f"/sessions/{session}/tasks/{task}/cancel")
    assert outcome == {"task_id": task, "state": "cancelled", "outcome": "cancelled"}
    again = await plane.post(f"/sessions/{session}/tasks/{task}/cancel")
    assert again["outcome"] == "already_finished"
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result")
    assert result["data"]["state"] == "cancelled"


async def test_the_api_servers_half_works_for_this_deployment(plane: Any) -> None:
    status = await plane.get("/status/")
    assert status["status"] == "Healthy"
    assert status["deployments"] == ["quickstart"]
    assert await plane.get("/deployments/") == [{"name": "quickstart"}]
    assert await plane.get("/deployments/quickstart") == {"name": "quickstart"}
    assert await plane.get("/deployments/none", 404) == {"detail": "Deployment not found"}


async def test_slashes_are_redirected_as_in_the_original(plane: Any) -> None:
    for path in ("/status", "/deployments"):
        async with plane.http.get(plane.url + path, allow_redirects=False) as response:
            assert response.status == 307
    async with plane.http.get(plane.url + "/sessions/", allow_redirects=False) as response:
        assert response.status == 307


async def test_documentation_and_probes_are_served(plane: Any) -> None:
    schema = await plane.get("/openapi.json")
    assert "/deployments/{deployment_name}/tasks/run" in schema["paths"]
    assert "TaskDefinition" in schema["components"]["schemas"]
    async with plane.http.get(plane.url + "/docs") as response:
        assert response.status == 200
    assert await plane.get("/healthz")
    assert (await plane.get("/readyz"))["reasons"] == []


async def test_readiness_names_what_is_wrong(plane: Any) -> None:
    await plane.control_plane.stop()
    reply = await plane.get("/readyz", 503)
    assert "not running" in reply["reasons"][0]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "input"),
        ({"input": 5}, 422, "input"),
        ({"input": "no json", "service_id": "echo"}, 422, "not JSON"),
        ({"input": "[1]", "service_id": "echo"}, 422, "an array"),
        ({"input": "{}", "task_id": "a/b", "service_id": "echo"}, 422, "task_id"),
        ({"input": "{}", "task_id": "", "service_id": "echo"}, 422, "task_id"),
        ([], 422, "dictionary"),
    ],
)
async def test_bad_tasks_say_which_field_is_wrong(
    plane: Any, body: Any, status: int, says: str
) -> None:
    session = await plane.session()
    reply = await plane.post(f"/sessions/{session}/tasks", body, status)
    assert says in json.dumps(reply["detail"])


@pytest.mark.defect(11)
async def test_a_hundred_bad_tasks_leave_nothing_behind(plane: Any) -> None:
    session = await plane.session()
    for number in range(100):
        bad = {"input": "{" * number, "service_id": "echo"}
        await plane.post(f"/sessions/{session}/tasks", bad, 422)
    task = await plane.task(session, message="good")
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "good"
    assert (await plane.get(f"/sessions/{session}"))["task_ids"] == [task]


async def test_python_only_json_is_accepted(plane: Any) -> None:
    session = await plane.session()
    body = {"input": '{"x": NaN, "message": "nan"}', "service_id": "echo"}
    task = await plane.post(f"/sessions/{session}/tasks", body)
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "nan"


async def test_a_task_without_service_goes_to_the_default_one(plane: Any, open_plane: Any) -> None:
    session = await plane.session()
    task = await plane.post(f"/sessions/{session}/tasks", {"input": INPUT})
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "hello"
    async with open_plane(default_service=None) as other:
        session = await other.session()
        reply = await other.post(f"/sessions/{session}/tasks", {"input": INPUT}, 400)
        assert reply["detail"] == "Service is None and deployment has no default service"


async def test_a_body_above_the_limit_is_413(plane: Any) -> None:
    from llamadeploy.control_plane.routes import limits

    session = await plane.session()
    large = b" " * (limits.MAX_BODY_BYTES + 1)
    path = f"{plane.url}/sessions/{session}/tasks"
    async with plane.http.post(path, data=large) as response:
        assert response.status == 413
        assert "too large" in (await response.json())["detail"]

    async def chunks() -> Any:
        for _ in range(33):
            yield b" " * 2**20

    async with plane.http.post(path, data=chunks()) as response:
        assert response.status == 413


@pytest.mark.rule(2)
async def test_large_inputs_travel_by_reference(plane: Any) -> None:
    session = await plane.session()
    message = "x" * 300_000
    task = await plane.task(session, message=message)
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == message


async def test_the_token_guards_everything_but_the_probes(open_plane: Any) -> None:
    import aiohttp

    async with open_plane(token="s3cret") as plane:
        for path in ("/", "/sessions", "/docs", "/internal/v1/results/x", "/queue_config"):
            async with plane.http.get(plane.url + path) as response:
                assert response.status == 401, path
        async with plane.http.get(plane.url + "/healthz") as response:
            assert response.status == 200
        for headers in (
            {"Authorization": "Bearer s3cret"},
            {"Authorization": aiohttp.encode_basic_auth("x", "s3cret")}
            if hasattr(aiohttp, "encode_basic_auth")
            else {"Authorization": aiohttp.BasicAuth("x", "s3cret").encode()},
        ):
            assert await plane.get("/sessions", headers=headers) == {}
        for wrong in ("Bearer nope", "Basic !!", "Bearer", "Bearer \xff"):
            headers = {"Authorization": wrong}
            assert "token" in (await plane.get("/sessions", 401, headers=headers))["detail"]
