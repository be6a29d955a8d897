"""Status, listing, resumable streams, service operations and dead letters, on both surfaces."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llamadeploy.exceptions import ConflictError, NotFoundError
from llamadeploy.state_stores.records import ExecutionKey, ParkRequest, StartRequest
from llamadeploy.types import TaskDefinition
from llamadeploy.worker.operations import ResidentRequest

D = "/deployments/quickstart"


def body(service: str = "echo", **arguments: Any) -> dict[str, Any]:
    return {"input": json.dumps(arguments), "service_id": service}


async def started(plane: Any, service: str = "slow") -> Any:
    """A task of a service without a worker, started by hand."""
    task = await plane.post(f"{D}/tasks/create", body(service))
    request = StartRequest(task_id=task["task_id"], execution_id="x", worker_id="w1", lease=60)
    return await plane.control_plane.execute("start", request)


# -- status and listing ------------------------------------------------------------------------


async def test_status_tells_attempts_times_and_who_runs_it(plane: Any) -> None:
    queued = await plane.post(f"{D}/tasks/create", body("slow"))
    status = await plane.get(f"{D}/tasks/{queued['task_id']}")
    assert (status["state"], status["attempts"], status["started_at"]) == ("queued", 0, None)
    run = await started(plane)
    status = await plane.get(f"{D}/tasks/{run.task_id}?session_id={run.session_id}")
    assert (status["state"], status["attempts"]) == ("running", 1)
    assert status["detail"] == "runs on w1"
    assert status["created_at"] <= status["started_at"]
    assert status == await plane.get(f"/sessions/{run.session_id}/tasks/{run.task_id}")


async def test_status_says_why_a_task_stays_in_its_workers_memory(plane: Any) -> None:
    run = await started(plane)
    reason = "the state holds a lock"
    assert await plane.control_plane.execute("note_resident", ResidentRequest(run.key, reason))
    status = await plane.get(f"{D}/tasks/{run.task_id}")
    assert status["resident"] == reason
    assert status["detail"] == "waits in the memory of w1: the state holds a lock"


async def test_status_of_a_parked_task_has_its_deadline(plane: Any) -> None:
    run = await started(plane)
    park = ParkRequest(key=run.key, snapshot="s", consumed_seq=0, next_index=0, deadline=4e9)
    await plane.control_plane.execute("park", park)
    status = await plane.get(f"{D}/tasks/{run.task_id}")
    assert (status["state"], status["wait_deadline"]) == ("waiting", 4e9)


async def test_statuses_are_filtered_and_paged(plane: Any) -> None:
    done = await plane.post(f"{D}/tasks/create", body(message="hi"))
    await plane.control_plane.wait_result(done["task_id"], 10)
    waits = [await plane.post(f"{D}/tasks/create", body("slow")) for _ in range(3)]
    newest_first = [task["task_id"] for task in reversed([done, *waits])]

    async def ids(query: str) -> list[str]:
        return [each["task_id"] for each in await plane.get(f"{D}/task-statuses{query}")]

    assert await ids("") == newest_first
    assert await ids("?state=succeeded&state=failed") == [done["task_id"]]
    assert await ids("?service=slow&limit=2") == newest_first[:2]
    assert await ids(f"?service=slow&before={newest_first[1]}") == newest_first[2:3]
    assert await ids(f"?session_id={done['session_id']}") == [done["task_id"]]
    await plane.get(f"{D}/task-statuses?state=lost", 422)
    await plane.get(f"{D}/task-statuses?limit=0", 422)
    await plane.get("/deployments/none/task-statuses", 404)


async def test_run_tells_how_the_task_ended(plane: Any) -> None:
    for service, state in (("echo", "succeeded"), ("fail", "failed")):
        url = f"{plane.url}{D}/tasks/run"
        async with plane.http.post(url, json=body(service)) as response:
            assert (response.status, response.headers["X-Task-State"]) == (200, state)


# -- streams -----------------------------------------------------------------------------------


async def test_what_is_there_can_be_read_without_following(plane: Any) -> None:
    gate = asyncio.Event()

    async def slow(job: Any) -> str:
        await job.emit({"n": 0})
        await gate.wait()
        await job.emit({"n": 1})
        return "done"

    plane.workers.serve("slow", slow)
    task = await plane.post(f"{D}/tasks/create", body("slow"))
    path = f"{D}/tasks/{task['task_id']}/events"
    async with plane.http.get(f"{plane.url}{path}") as response:
        assert json.loads(await response.content.readline()) == {"n": 0}
    assert await plane.lines(path + "?follow=false") == [{"n": 0}]
    assert await plane.lines(path + "?follow=false&format=typed&after=1") == []
    session = f"/sessions/{task['session_id']}/tasks/{task['task_id']}/result_stream"
    assert await plane.lines(session + "?follow=false") == [{"n": 0}]
    gate.set()
    assert await plane.lines(path) == [{"n": 0}, {"n": 1}]


async def sse(plane: Any, path: str, last: str | None = None, status: int = 200) -> list[Any]:
    """The messages of a server-sent event stream, each as a dictionary of its fields."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    async with plane.http.get(plane.url + path, headers=headers) as response:
        text = await response.text()
        assert response.status == status, text
    blocks = [block.splitlines() for block in text.split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block) for block in blocks]


async def test_an_event_source_continues_and_is_told_when_all_was_said(plane: Any) -> None:
    task = await plane.post(f"{D}/tasks/create", body(message="hi"))
    path = f"{D}/tasks/{task['task_id']}/events"
    messages = await sse(plane, path)
    assert [(each["id"], each["event"]) for each in messages] == [
        ("1", "Event"), ("2", "Event"), ("3", "Event"),
    ]  # fmt: skip
    assert [each["id"] for each in await sse(plane, path, "1")] == ["2", "3"]
    assert await sse(plane, path, "3", 204) == []
    # What is no sequence number begins at the start.
    for nonsense in ("x", "-1", "²", "9" * 40):
        assert len(await sse(plane, path, nonsense)) == 3


async def test_a_reader_of_a_lost_attempt_is_told_to_start_over(plane: Any) -> None:
    """The second attempt writes anew what the reader already has of the first one."""
    first_wrote, second_may_end = asyncio.Event(), asyncio.Event()

    async def slow(job: Any) -> str:
        if job.execution.attempt == 1:
            await job.emit({"try": 1}, {"try": 1})
            first_wrote.set()
            await asyncio.Event().wait()
        await job.emit({"try": 2})
        await second_may_end.wait()
        return "done"

    worker = plane.workers.serve("slow", slow)
    task = await plane.post(f"{D}/tasks/create", body("slow"))
    path = f"{D}/tasks/{task['task_id']}/events"
    await first_wrote.wait()
    await plane.workers.kill(worker)
    await plane.control_plane.worker_lost(worker)
    plane.workers.serve("slow", slow)
    async with plane.http.get(f"{plane.url}{path}?format=typed&after=2") as response:
        marker = json.loads(await response.content.readline())
        assert marker == {"restart": {"attempt": 2, "base_index": 0}}
        event = json.loads(await response.content.readline())
        assert (event["seq"], event["attempt"], event["index"]) == (3, 2, 0)
        second_may_end.set()
    messages = await sse(plane, path, "1")
    assert messages[0]["event"] == "restart"
    assert json.loads(messages[1]["data"])["data"] == {"try": 2}


# -- services ----------------------------------------------------------------------------------


async def test_scaling_counts_what_a_worker_could_help_with(plane: Any) -> None:
    run = await started(plane)
    behind = body("slow")
    await plane.post(f"{D}/tasks/create?session_id={run.session_id}", behind)
    ready = await plane.post(f"{D}/tasks/create", body("slow"))
    for path in ("/services/slow/scaling", f"{D}/services/slow/scaling"):
        scaling = await plane.get(path)
        assert scaling.pop("oldest_seconds") >= 0
        assert scaling.pop("version")
        assert scaling == {
            "ready": 1, "unacked": 1, "custody": 0, "parked": 1, "backlog": 2, "problem": None,
            "replicas": [{"name": "w1", "in_flight": 1}],
        }  # fmt: skip
    await plane.post(f"{D}/tasks/{ready['task_id']}/cancel")
    assert (await plane.get("/services/slow/scaling"))["ready"] == 0
    await plane.get("/services/none/scaling", 404)


async def test_services_are_listed_with_their_work(plane: Any) -> None:
    await started(plane)
    await plane.post(f"{D}/tasks/create", body("slow"))
    found = {each["service_name"]: each for each in await plane.get(f"{D}/services")}
    assert set(found) == {"echo", "fail", "slow", "ask"}
    assert found["echo"]["default"] is True
    assert (found["slow"]["queued"], found["slow"]["running"]) == (1, 1)
    assert (found["slow"]["state"], found["slow"]["replicas"]) == ("unknown", None)


@pytest.mark.parametrize("prefix", ["", D])
@pytest.mark.parametrize(
    ("operation", "content"), [("stop", None), ("restart", None), ("scale", {"replicas": 2})]
)
async def test_workers_that_run_elsewhere_cannot_be_changed_here(
    plane: Any, prefix: str, operation: str, content: Any
) -> None:
    reply = await plane.post(f"{prefix}/services/echo/{operation}", content, 400)
    assert "does not run the workers" in reply["detail"]
    await plane.post(f"{prefix}/services/none/{operation}", content, 404)


@pytest.mark.parametrize("replicas", [-1, 1000, "many", None])
async def test_a_number_of_replicas_has_bounds(plane: Any, replicas: Any) -> None:
    await plane.post("/services/echo/scale", {"replicas": replicas}, 422)


async def test_logs_of_workers_that_run_elsewhere(plane: Any) -> None:
    reply = await plane.get(f"{D}/logs", 400)
    assert "read their output where they run" in reply["detail"]


# -- dead letters ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", D])
async def test_a_dead_letter_is_retried_or_deleted(
    plane: Any, service: Any, wait_until: Any, prefix: str
) -> None:
    plane.control_plane.declare_service(service("fragile", max_retries=0))

    async def dies(_: Any) -> str:
        await asyncio.Event().wait()
        return ""

    async def succeeds(_: Any) -> str:
        return "at last"

    async def letters() -> Any:
        return await plane.get(f"{prefix}/dead-letters")

    tasks = []
    for _ in range(2):
        dead = plane.workers.serve("fragile", dies)
        tasks.append(await plane.post(f"{D}/tasks/create", body("fragile")))
        await wait_until(lambda: tasks[-1]["task_id"] in plane.workers.started)
        await plane.workers.kill(dead)
        await plane.control_plane.worker_lost(dead)
        await plane.control_plane.wait_result(tasks[-1]["task_id"], 10)
    first, second = await letters()
    assert (first["task_id"], first["service"]) == (tasks[0]["task_id"], "fragile")
    plane.workers.serve("fragile", succeeds)
    await plane.post(f"{prefix}/dead-letters/{first['letter_id']}/retry")
    path = f"{D}/tasks/{tasks[0]['task_id']}/results?wait=10"
    assert (await plane.get(path))["result"] == "at last"
    await plane.call("DELETE", f"{prefix}/dead-letters/{second['letter_id']}")
    assert await letters() == []
    for method, action in (("POST", "/retry"), ("DELETE", "")):
        await plane.call(method, f"{prefix}/dead-letters/{second['letter_id']}{action}", 404)
    assert (await plane.get(f"{D}/tasks/{tasks[1]['task_id']}"))["state"] == "failed"


# -- the end of a deployment -------------------------------------------------------------------


async def test_every_task_can_be_ended_at_once_and_whoever_waits_hears_of_it(
    plane: Any, wait_until: Any
) -> None:
    control_plane = plane.control_plane
    runs = [asyncio.create_task(plane.post(f"{D}/tasks/run", body("slow"))) for _ in range(40)]
    for _ in range(100):  # more than one page of a listing
        await control_plane.create_task(
            TaskDefinition(input="{}", service_id="slow"), session_id=None
        )

    async def all_there() -> bool:
        return (await control_plane.store.counts())["queued"] == 140

    await wait_until(all_there)
    control_plane.refuse_tasks("the deployment is being deleted")
    reply = await plane.post(f"{D}/tasks/run", body(), 409)
    assert reply["detail"] == "the deployment is being deleted"
    with pytest.raises(ConflictError):
        await control_plane.create_task(TaskDefinition(input="{}"), session_id=None)
    assert await control_plane.end_all_tasks("deleted") == 140
    assert set(await asyncio.gather(*runs)) == {"deleted"}
    control_plane.accept_tasks()
    assert await plane.post(f"{D}/tasks/run", body(message="again")) == "again"


async def test_waiting_for_an_unknown_task_counts_nobody(plane: Any) -> None:
    with pytest.raises(NotFoundError):
        await plane.control_plane.wait_result("none", 5)
    async with asyncio.timeout(1):
        assert await plane.control_plane.end_all_tasks("nothing") == 0


@pytest.mark.parametrize("prefix", ["", D])
async def test_the_tasks_of_one_service_are_ended_with_a_reason(plane: Any, prefix: str) -> None:
    run = await started(plane)
    behind = await plane.post(f"{D}/tasks/create?session_id={run.session_id}", body("slow"))
    queued = [await plane.post(f"{D}/tasks/create", body("slow")) for _ in range(3)]
    other = await started(plane, "ask")
    reply = await plane.post(f"{prefix}/services/slow/end", {"reason": "it was removed"})
    assert reply == {"ended": 5}
    for task in (behind, *queued):
        record = await plane.control_plane.wait_result(task["task_id"], 10)
        assert "it was removed" in record.result
        status = await plane.get(f"{D}/tasks/{task['task_id']}")
        assert status["state"] == "cancelled"
    assert (await plane.get(f"{D}/tasks/{other.task_id}"))["state"] == "running"
    scaling = await plane.get("/services/slow/scaling")
    assert [scaling[name] for name in ("ready", "unacked", "custody", "parked")] == [0] * 4
    assert await plane.post(f"{prefix}/services/none/end", {"reason": "x"}) == {"ended": 0}
    await plane.post(f"{prefix}/services/slow/end", {"reason": ""}, 422)


@pytest.mark.parametrize("prefix", ["", D])
async def test_a_service_that_refuses_keeps_what_it_has_and_takes_no_more(
    plane: Any, prefix: str
) -> None:
    run = await started(plane)
    caller = await started(plane, "ask")
    call = ExecutionKey(caller.task_id, 1), "before", "slow", {}
    child = await plane.control_plane.call_service(*call)
    key = {"Idempotency-Key": "once"}
    accepted = await plane.post(f"{D}/tasks/create", body("slow"), headers=key)
    await plane.post(f"{prefix}/services/slow/refuse", {"reason": "slow was removed"})
    for route in ("create", "run"):
        reply = await plane.post(f"{D}/tasks/{route}", body("slow"), 404)
        assert reply["detail"] == "slow was removed"
    session = await plane.post("/sessions/create")
    await plane.post(f"/sessions/{session}/tasks", body("slow"), 404)
    with pytest.raises(NotFoundError, match="slow was removed"):
        await plane.control_plane.call_service(call[0], "after", "slow", {})
    # A repeat of what was accepted finds it; others are not concerned.
    again = await plane.post(f"{D}/tasks/create", body("slow"), headers=key)
    assert again["task_id"] == accepted["task_id"]
    assert await plane.control_plane.call_service(*call) == child
    assert await plane.post(f"{D}/tasks/run", body(message="other")) == "other"
    assert (await plane.get(f"{D}/tasks/{run.task_id}"))["state"] == "running"
    assert (await plane.get(f"{D}/tasks/{accepted['task_id']}"))["state"] == "queued"

    before = await plane.control_plane.get_service("slow")
    await plane.post(f"{prefix}/services/slow/accept")
    await plane.post(f"{prefix}/services/slow/accept")
    await plane.post(f"{D}/tasks/create", body("slow"))
    after = await plane.control_plane.get_service("slow")
    assert (after.description, after.options) == (before.description, before.options)
    assert "refuses_tasks" not in (after.model_extra or {})


async def test_a_service_that_is_not_registered_can_refuse(plane: Any) -> None:
    await plane.post("/services/unheard/refuse", {"reason": "unheard was removed"})
    reply = await plane.post("/sessions/create")
    path = f"/sessions/{reply}/tasks"
    assert (await plane.post(path, body("unheard"), 404))["detail"] == "unheard was removed"
    await plane.post("/services/unheard/refuse", {"reason": ""}, 422)
