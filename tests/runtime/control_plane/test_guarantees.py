"""Accepted means terminal, streams keep their tail, waiters leave, state expires."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.control_plane import tailing
from llamadeploy.control_plane.routes import streaming
from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.state_stores.records import ExecutionKey, StartRequest
from llamadeploy.types import ServiceDefinition, TaskDefinition

D = "/deployments/quickstart"


def waiting(plane: Any) -> int:
    """How many followers the store holds."""
    return len(plane.control_plane.store._followers)


@pytest.mark.defect(1)
async def test_every_event_is_there_exactly_once_under_concurrency(plane: Any) -> None:
    async def busy(job: Any) -> str:
        for n in range(20):
            await job.emit({"n": n})
        return "done"

    plane.workers.serve("busy", busy)
    session = await plane.session()
    tasks = [await plane.task(await plane.session(), "busy") for _ in range(8)]
    merges = [plane.post(f"/sessions/{session}/state", {str(n): n}) for n in range(50)]
    await asyncio.gather(*merges)
    assert await plane.get(f"/sessions/{session}/state") == {str(n): n for n in range(50)}
    for task in tasks:
        lines = await plane.lines(f"{D}/tasks/{task}/events")
        assert lines == [{"n": n} for n in range(20)]


@pytest.mark.defect(2)
async def test_a_slow_reader_gets_the_tail_after_the_result(plane: Any) -> None:
    task = await plane.task(await plane.session(), message="x")
    reader = plane.control_plane.stream(task)
    first = asyncio.ensure_future(anext(aiter(reader)))
    await plane.control_plane.wait_result(task, 10)
    seen = list(await first)
    async for batch in reader:
        seen += batch
    assert [item.index for item in seen] == [0, 1, 2]


async def test_a_stream_that_is_opened_before_the_task_starts_sees_everything(plane: Any) -> None:
    task = await plane.task(await plane.session(), "late")
    lines = asyncio.create_task(plane.lines(f"{D}/tasks/{task}/events"))

    async def late(job: Any) -> str:
        await job.emit(*({"n": n} for n in range(3)))
        return "done"

    plane.workers.serve("late", late)
    assert await lines == [{"n": n} for n in range(3)]


@pytest.mark.defect(23)
async def test_an_idle_stream_is_kept_alive_and_parses(plane: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tailing, "HEARTBEAT_SECONDS", 0.02)
    task = await plane.task(await plane.session(), "slow")
    begin = asyncio.Event()

    async def slow(job: Any) -> str:
        await job.emit({"n": 0})
        await begin.wait()
        await job.emit({"n": 1})
        return "done"

    plane.workers.serve("slow", slow)
    received = b""
    async with plane.http.get(f"{plane.url}{D}/tasks/{task}/events") as response:
        async for chunk in response.content.iter_any():
            received += chunk
            if received.count(b" ") > 12:  # the line has some of its own
                begin.set()
    assert [json.loads(line) for line in received.splitlines()] == [{"n": 0}, {"n": 1}]


async def test_a_stream_that_ends_while_idle_parses_to_its_end(
    plane: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tailing, "HEARTBEAT_SECONDS", 0.02)
    session = await plane.session()
    task = await plane.task(session, "nobody")
    received = b""
    async with plane.http.get(f"{plane.url}{D}/tasks/{task}/events") as response:
        async for chunk in response.content.iter_any():
            received += chunk
            if len(received) == 3:
                await plane.post(f"/sessions/{session}/tasks/{task}/cancel")
    assert [json.loads(line) for line in received.splitlines()] == [
        json.loads(streaming.LEGACY_END)
    ]


async def test_the_heartbeat_is_well_below_the_clients_time_out() -> None:
    assert 2 <= tailing.HEARTBEAT_SECONDS <= 4  # 0.8.1's SDK gives up after 5 s


@pytest.mark.defect(3, 4)
async def test_streams_are_linear_and_fast(plane: Any) -> None:
    count = 20_000

    async def many(job: Any) -> str:
        for start in range(0, count, 500):
            await job.emit(*({"n": n} for n in range(start, start + 500)))
        return "done"

    plane.workers.serve("many", many)
    begin = time.perf_counter()
    task = await plane.task(await plane.session(), "many")
    lines = await plane.lines(f"{D}/tasks/{task}/events")
    rate = count / (time.perf_counter() - begin)
    assert lines == [{"n": n} for n in range(count)]
    assert rate > 5_000


@pytest.mark.defect(4)
async def test_a_run_takes_milliseconds(plane: Any) -> None:
    body = {"input": '{"message": "x"}'}
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        await plane.post(D + "/tasks/run", body)
        times.append(time.perf_counter() - begin)
    assert sorted(times)[10] < 0.1


@pytest.mark.parametrize(
    "path",
    [
        "/tasks/run",
        "/tasks/{task}/results?wait=100",
        "/tasks/{task}/events",
    ],
)
@pytest.mark.rule(13)
async def test_a_client_that_goes_away_leaves_no_waiter(
    plane: Any, wait_until: Any, path: str
) -> None:
    task = await plane.task(await plane.session(), "nobody")
    method = "POST" if path.endswith("run") else "GET"
    body = {"input": "{}", "service_id": "slow"} if method == "POST" else None

    async def ask() -> None:
        url = plane.url + D + path.format(task=task)
        async with plane.http.request(method, url, json=body) as response:
            await response.read()

    asked = [asyncio.create_task(ask()) for _ in range(5)]
    await wait_until(lambda: waiting(plane) == 5)
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await wait_until(lambda: waiting(plane) == 0)
    assert (await plane.get(f"{D}/tasks/{task}"))["state"] == "queued"


@pytest.mark.rule(17)
async def test_finished_tasks_and_their_sessions_expire(open_plane: Any, wait_until: Any) -> None:
    async with open_plane(retention=0.2) as plane:

        async def quick(_: Any) -> str:
            return "done"

        plane.workers.serve("echo", quick)
        session = await plane.session()
        task = await plane.task(session)
        live = await plane.task(await plane.session(), "nobody")
        await plane.control_plane.wait_result(task, 10)

        async def gone() -> bool:
            return await plane.control_plane.store.get_task(task) is None

        await wait_until(gone)
        await plane.get(f"/sessions/{session}/tasks/{task}/result", 404)
        await plane.get(f"{D}/tasks/{task}/events", 404)
        assert (await plane.get(f"{D}/tasks/{live}"))["state"] == "queued"


@pytest.mark.defect(13)
async def test_a_failed_run_does_not_poison_its_session(plane: Any) -> None:
    session = await plane.session()
    await plane.post(f"{D}/tasks/run?session_id={session}", {"input": "{}", "service_id": "fail"})
    body = {"input": '{"message": "fine"}'}
    assert await plane.post(f"{D}/tasks/run?session_id={session}", body) == "fine"


@pytest.mark.defect(14)
async def test_services_of_a_session_have_contexts_of_their_own(plane: Any) -> None:
    from llamadeploy.state_stores.records import Completion, StartRequest
    from llamadeploy.types import TaskState

    session = await plane.session()

    async def run(service: str, context: str) -> str | None:
        task = await plane.task(session, service)
        start = StartRequest(task_id=task, execution_id=task, worker_id="w", lease=5.0)
        execution = await plane.control_plane.execute("start", start)
        await plane.control_plane.execute(
            "finish",
            Completion(key=execution.key, state=TaskState.SUCCEEDED, result="", context=context),
        )
        return execution.context

    assert await run("a", "context of a") is None
    assert await run("b", "context of b") is None
    assert await run("a", "later") == "context of a"
    assert await run("b", "later") == "context of b"


@pytest.mark.rule(4)
async def test_tasks_of_a_session_run_in_order(plane: Any) -> None:
    order: list[int] = []

    async def note(job: Any) -> str:
        await asyncio.sleep(0)
        order.append(job.arguments["n"])
        return ""

    plane.workers.serve("note", note)
    session = await plane.session()
    tasks = [await plane.task(session, "note", n=n) for n in range(20)]
    for task in tasks:
        assert await plane.control_plane.wait_result(task, 10)
    assert order == list(range(20))


@pytest.mark.rule(4)
async def test_reject_is_409_and_parallel_runs_at_once(plane: Any, service: Any) -> None:
    control_plane = plane.control_plane
    control_plane.declare_service(service("one", session_policy="reject"))
    control_plane.declare_service(service("many", session_policy="parallel"))
    session = await plane.session()
    await plane.task(session, "one")
    body = {"input": "{}", "service_id": "one"}
    reply = await plane.post(f"/sessions/{session}/tasks", body, 409)
    assert "one at a time" in reply["detail"]
    together = asyncio.Barrier(2)

    async def meet(_: Any) -> str:
        await together.wait()
        return "met"

    plane.workers.serve("many", meet)
    tasks = [await plane.task(session, "many") for _ in range(2)]
    for task in tasks:
        assert (await control_plane.wait_result(task, 10)).result == "met"


@pytest.mark.rule(3)
async def test_a_task_the_queue_refused_is_published_later(
    plane: Any, monkeypatch: Any, wait_until: Any
) -> None:
    queue = plane.control_plane.queue
    publish = queue.publish

    async def refuse(topic: str, message: Any) -> None:
        raise QueueUnavailableError("not now")

    monkeypatch.setattr(queue, "publish", refuse)
    task = await plane.task(await plane.session(), message="x")
    assert await plane.control_plane.wait_result(task, 0.05) is None
    monkeypatch.setattr(queue, "publish", publish)
    # The row belongs to its creator for a few seconds; then the repair loop publishes it.
    result = await plane.control_plane.wait_result(task, 15)
    assert result.result == "x"


@pytest.mark.rule(3)
async def test_a_message_the_queue_lost_is_published_again(plane: Any) -> None:
    queue = plane.control_plane.queue
    task = await plane.task(await plane.session(), "late", message="x")
    await queue.delete_topic("llama_deploy.test.late")

    async def late(_: Any) -> str:
        return "late"

    plane.workers.serve("late", late)
    assert (await plane.control_plane.wait_result(task, 15)).result == "late"


async def test_the_task_of_a_worker_that_died_runs_again_at_once(
    plane: Any, wait_until: Any
) -> None:
    forever = asyncio.Event()
    attempts: list[int] = []

    async def dies(job: Any) -> str:
        attempts.append(job.execution.attempt)
        await forever.wait()
        return "never"

    async def lives(job: Any) -> str:
        attempts.append(job.execution.attempt)
        return "alive"

    dead = plane.workers.serve("fragile", dies)
    task = await plane.task(await plane.session(), "fragile")
    await wait_until(lambda: attempts == [1])
    await plane.workers.kill(dead)
    plane.workers.serve("fragile", lives)
    begin = time.perf_counter()
    await plane.control_plane.worker_lost(dead)
    assert (await plane.control_plane.wait_result(task, 10)).result == "alive"
    assert attempts == [1, 2]
    assert time.perf_counter() - begin < 3  # the lease would have run for 6 s


@pytest.mark.rule(13)
async def test_cancel_reaches_the_worker_and_a_late_result_changes_nothing(
    plane: Any, wait_until: Any
) -> None:
    stopped = asyncio.Event()

    async def stubborn(job: Any) -> str:
        await job.cancelled.wait()
        stopped.set()
        return "too late"

    plane.workers.serve("slow", stubborn)
    session = await plane.session()
    task = await plane.task(session, "slow")
    await wait_until(lambda: task in plane.workers.started)
    outcome = await plane.post(f"/sessions/{session}/tasks/{task}/cancel")
    assert outcome["state"] == "cancelled"
    await asyncio.wait_for(stopped.wait(), 10)
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result")
    assert result["data"]["state"] == "cancelled"
    assert result["result"] != "too late"


@pytest.mark.defect(29)
async def test_everything_is_there_after_a_restart(
    open_plane: Any, tmp_path: Path, service: Any
) -> None:
    uri = f"sqlite:///{tmp_path}/state.db"
    async with open_plane(uri) as plane:

        async def speak(job: Any) -> str:
            await job.emit({"n": 0}, {"n": 1})
            return "done"

        plane.workers.serve("echo", speak)
        await plane.control_plane.register_service(service("registered"))
        session = await plane.session()
        done = await plane.task(session, message="x")
        await plane.control_plane.wait_result(done, 10)
        await plane.post(f"/sessions/{session}/state", {"k": "v"})
        unfinished = await plane.task(session, "later", message="y")
    async with open_plane(uri) as plane:
        known = await plane.get(f"/sessions/{session}")
        assert known["task_ids"] == [done, unfinished]
        assert known["state"] == {"k": "v"}
        assert "registered" in await plane.get("/services")
        result = await plane.get(f"/sessions/{session}/tasks/{done}/result")
        assert result["result"] == "done"
        assert await plane.lines(f"{D}/tasks/{done}/events") == [{"n": 0}, {"n": 1}]

        async def later(job: Any) -> str:
            return job.arguments["message"]

        plane.workers.serve("later", later)
        # The simple queue forgot its message with the process.
        assert (await plane.control_plane.wait_result(unfinished, 15)).result == "y"


@pytest.mark.rule(3)
async def test_unstarted_tasks_end_at_their_queue_timeout(plane: Any, service: Any) -> None:
    plane.control_plane.declare_service(service("nobody", queue_timeout=0.3))
    task = await plane.task(await plane.session(), "nobody")
    result = await plane.control_plane.wait_result(task, 10)
    assert result.data["state"] == "failed"
    assert "queue-timeout" in result.result


async def _parent(plane: Any, session: str | None = None) -> tuple[str, ExecutionKey]:
    """A running task of the service ``parent``, by its real operations."""
    from llamadeploy.state_stores.records import StartRequest

    plane.control_plane.declare_service(ServiceDefinition(service_name="parent"))
    task = await plane.task(session or await plane.session(), "parent")
    request = StartRequest(task_id=task, execution_id="e", worker_id="w", lease=5.0)
    return task, (await plane.control_plane.execute("start", request)).key


@pytest.mark.rule(14)
async def test_a_call_runs_another_service_once(plane: Any) -> None:
    _, key = await _parent(plane)
    call = plane.control_plane.call_service
    child = await call(key, "k", "echo", {"message": "called"})
    assert await call(key, "k", "echo", {"message": "a rerun, slightly different"}) == child
    assert await call(key, "other", "echo", {"message": "x"}) != child
    assert (await plane.control_plane.wait_result(child, 10)).result == "called"


async def test_a_call_of_an_unknown_service_or_a_stale_attempt_is_refused(plane: Any) -> None:
    from llamadeploy.exceptions import ConflictError, NotFoundError

    task, key = await _parent(plane)
    with pytest.raises(NotFoundError, match="none"):
        await plane.control_plane.call_service(key, "k", "none", {})
    with pytest.raises(ConflictError, match="not the current"):
        await plane.control_plane.call_service(ExecutionKey(task, 7), "k", "echo", {})


@pytest.mark.rule(13)
async def test_cancelling_a_task_ends_its_calls(plane: Any) -> None:
    session = await plane.session()
    task, key = await _parent(plane, session)
    child = await plane.control_plane.call_service(key, "k", "slow", {})
    await plane.post(f"/sessions/{session}/tasks/{task}/cancel")
    result = await plane.control_plane.wait_result(child, 10)
    assert result.data["state"] == "cancelled"


@pytest.mark.rule(14)
async def test_a_call_into_a_callers_session_and_service_does_not_wait_for_it(plane: Any) -> None:
    session = await plane.session()
    _, key = await _parent(plane, session)
    child = await plane.control_plane.call_service(
        key, "k", "parent", {"message": "inner"}, share_session=True
    )

    async def inner(job: Any) -> str:
        assert not job.execution.keep_context
        return str(job.execution.ancestors)

    plane.workers.serve("parent", inner)
    result = await plane.control_plane.wait_result(child, 10)
    assert result.result == f"('{key.task_id}',)"


async def test_a_run_whose_session_is_deleted_keeps_no_context(plane: Any) -> None:
    kept: list[bool] = []

    async def run(job: Any) -> str:
        kept.append(job.execution.keep_context)
        return "done"

    plane.workers.serve("parent", run)
    definition = TaskDefinition(input="{}", service_id="parent")
    alone = await plane.control_plane.run_task(definition, session_id=None)
    repeatable = await plane.control_plane.run_task(
        definition, session_id=None, idempotency_key="k"
    )
    session = await plane.session()
    await plane.control_plane.run_task(definition, session_id=session)
    assert kept == [False, True, True]
    sessions = {found.session_id for found in await plane.control_plane.list_sessions()}
    assert alone.session_id not in sessions
    assert {repeatable.session_id, session} <= sessions


async def test_sessions_of_calls_go_with_a_successful_parent(plane: Any) -> None:
    from llamadeploy.state_stores.records import Completion
    from llamadeploy.types import TaskState

    session = await plane.session()
    _, key = await _parent(plane, session)
    child = await plane.control_plane.call_service(key, "k", "echo", {"message": "x"})
    await plane.control_plane.wait_result(child, 10)
    assert len(await plane.get("/sessions")) == 2
    done = Completion(key=key, state=TaskState.SUCCEEDED, result="")
    await plane.control_plane.execute("finish", done)
    assert list(await plane.get("/sessions")) == [session]


async def test_two_deployments_on_one_store_and_queue_are_apart(
    open_plane: Any, tmp_path: Path
) -> None:
    from llamadeploy.control_plane.control_plane import ControlPlane
    from llamadeploy.state_stores.registry import open_store

    uri = f"sqlite:///{tmp_path}/state.db"
    async with open_plane(uri) as plane:
        store = await open_store(uri, "llama_deploy.other")
        other = ControlPlane(
            store, plane.control_plane.queue, name="other", namespace="llama_deploy.other"
        )
        session = await plane.session()
        task = await plane.task(session)
        assert await other.list_tasks() == []
        assert await other.list_sessions() == []
        assert await other.list_services() == {}
        assert await store.get_task(task) is None
        await store.aclose()


async def test_published_rows_leave_the_outbox_with_the_start_or_soon_after(plane: Any) -> None:
    session = await plane.session()
    started = await plane.task(session, "late")
    await plane.task(await plane.session(), "late")
    store = plane.control_plane.store
    assert (await store.counts())["outbox"] == 2
    request = StartRequest(task_id=started, execution_id="e", worker_id="w", lease=5)
    await plane.control_plane.execute("start", request)
    assert (await store.counts())["outbox"] == 1
    deadline = time.monotonic() + 10
    while (await store.counts())["outbox"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_listing_waits_for_sessions_that_are_to_be_deleted(plane: Any) -> None:
    for _ in range(3):
        reply = await plane.post(f"{D}/tasks/run", {"input": '{"message": "x"}'})
        assert isinstance(reply, str)
    assert await plane.get(f"{D}/sessions") == []
    assert await plane.get(f"{D}/tasks") == []
