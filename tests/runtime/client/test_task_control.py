"""The SDK against a real server: tasks, streams, services, dead letters, deployments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from workflows.events import HumanResponseEvent

from llamadeploy import Client, TaskDefinition
from llamadeploy.client import ServerError
from llamadeploy.types import StreamRestart, TaskEvent, TaskState


def task(service: str, session_id: str | None = None, **arguments: Any) -> TaskDefinition:
    return TaskDefinition(input=json.dumps(arguments), service_id=service, session_id=session_id)


@pytest.fixture
async def deployment(client: Client) -> Any:
    return await client.apiserver.deployments.get("sdk")


async def state(handle: Any, wanted: TaskState) -> Any:
    """The task's status once it is in that state."""
    async with asyncio.timeout(20):
        while (status := await handle.status()).state is not wanted:
            await asyncio.sleep(0.01)
    return status


async def test_a_task_from_its_start_to_its_end(deployment: Any) -> None:
    handle = await deployment.tasks.create(task("ask"))
    waiting = await state(handle, TaskState.WAITING)
    assert (waiting.service_id, waiting.attempts) == ("ask", 1)
    assert await handle.result(wait=0.1) is None
    await handle.send_event(HumanResponseEvent(response="Ada"), "ask")
    result = await handle.result()
    assert result.result == "hello Ada"
    done = await handle.status()
    assert done.state is TaskState.SUCCEEDED
    assert done.created_at <= done.started_at <= done.finished_at
    assert (await deployment.tasks.get(handle.id)).session_id == handle.session_id


async def test_a_result_is_waited_for_with_several_questions(
    deployment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamadeploy.client.waiting.RESULT_WAIT", 0.1)
    gate = tmp_path / "gate"
    handle = await deployment.tasks.create(task("count", gate=str(gate)))
    waiting = asyncio.create_task(handle.result())
    assert await handle.result(wait=0.35) is None
    gate.touch()
    assert (await waiting).result == "counted"


async def test_cancel_and_its_outcome(deployment: Any) -> None:
    handle = await deployment.tasks.create(task("ask"))
    assert (await handle.cancel()).outcome == "cancelled"
    assert (await handle.cancel()).outcome == "already_finished"
    assert (await handle.result()).data["state"] == "cancelled"


async def test_run_result_tells_failures_apart(deployment: Any) -> None:
    good = await deployment.tasks.run_result(task("echo", text="x"))
    assert (good.result, good.data) == ("echo: 'x'", {})
    bad = await deployment.tasks.run_result(task("fail"))
    assert (bad.result, bad.data["state"]) == ("it went wrong", "failed")
    assert (await deployment.tasks.get(bad.task_id)).id == bad.task_id
    assert await deployment.tasks.run(task("fail")) == "it went wrong"


async def test_an_idempotency_key_makes_one_task(deployment: Any) -> None:
    first = await deployment.tasks.create(task("echo"), idempotency_key="sdk-1")
    assert (await deployment.tasks.create(task("echo"), idempotency_key="sdk-1")).id == first.id
    result = await deployment.tasks.run_result(task("echo"), idempotency_key="sdk-1")
    assert result.task_id == first.id


async def test_statuses_are_filtered(deployment: Any) -> None:
    session = await deployment.sessions.create()
    own = session.session_id
    failed = await deployment.tasks.create(task("fail", own))
    asked = await deployment.tasks.create(task("ask", own))
    await failed.result()
    await state(asked, TaskState.WAITING)

    async def ids(**filters: Any) -> list[str]:
        return [each.task_id for each in await deployment.tasks.statuses(**filters)]

    assert await ids(session_id=own) == [asked.id, failed.id]
    assert await ids(session_id=own, states=[TaskState.FAILED, "succeeded"]) == [failed.id]
    assert await ids(session_id=own, service="ask") == [asked.id]
    assert await ids(session_id=own, limit=1) == [asked.id]
    assert await ids(session_id=own, before=asked.id) == [failed.id]
    await deployment.sessions.delete(own)


async def test_events_plain_and_typed_and_from_any_point(deployment: Any) -> None:
    handle = await deployment.tasks.create(task("count"))
    await handle.result()
    plain = [event async for event in handle.events()]
    assert plain[:3] == [{"n": 0}, {"n": 1}, {"n": 2}]
    typed = [event async for event in handle.events(typed=True)]
    assert [(each.seq, each.index, each.data) for each in typed][:2] == [
        (1, 0, {"n": 0}), (2, 1, {"n": 1}),
    ]  # fmt: skip
    assert typed[0].type == "workflow.Progress"
    assert [e.seq async for e in handle.events(after=2, typed=True)] == [e.seq for e in typed[2:]]
    assert [e async for e in handle.events(after=2)] == plain[2:]


async def test_events_without_following_end_at_the_present(deployment: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = await deployment.tasks.create(task("count", gate=str(gate)))
    async for event in handle.events(typed=True):
        if event.index == 2:
            break
    assert [e async for e in handle.events(follow=False)] == [{"n": 0}, {"n": 1}, {"n": 2}]
    gate.touch()


async def test_the_control_planes_half(client: Client) -> None:
    session = await client.core.sessions.create()
    task_id = await session.run_nowait("count")
    async with asyncio.timeout(20):
        while (await session.get_task_status(task_id)).state is not TaskState.SUCCEEDED:
            await asyncio.sleep(0.01)
    events = [event async for event in session.get_task_events(task_id, after=1)]
    assert isinstance(events[0], TaskEvent)
    assert events[0].seq == 2
    asked = await session.run_nowait("ask")
    assert (await session.cancel_task(asked)).outcome == "cancelled"
    assert (await client.core.services.scaling("ask")).ready == 0
    assert await client.core.dead_letters.list() == []
    await client.core.sessions.delete(session.id)


async def test_services_are_operated(deployment: Any) -> None:
    services = deployment.services

    async def status(name: str) -> Any:
        return next(each for each in await services.list() if each.service_name == name)

    await services.scale("fail", 2)
    assert (await status("fail")).ready_replicas == 2
    assert len((await services.scaling("fail")).replicas) == 2
    await services.stop("fail")
    assert (await status("fail")).state == "stopped"
    await services.restart("fail")
    await services.scale("fail", 1)
    assert (await status("fail")).ready_replicas == 1
    with pytest.raises(ServerError) as caught:
        await services.stop("nobody")
    assert caught.value.status_code == 404


async def test_dead_letters_are_there(deployment: Any) -> None:
    assert await deployment.dead_letters.list() == []
    for change in (deployment.dead_letters.retry, deployment.dead_letters.delete):
        with pytest.raises(ServerError) as caught:
            await change(99)
        assert caught.value.status_code == 404


async def test_logs_are_read_and_followed(deployment: Any) -> None:
    followed = deployment.logs("echo", tail=0, follow=True)
    reading = asyncio.create_task(anext(followed))
    async with asyncio.timeout(20):
        while not reading.done():
            await deployment.tasks.run(task("echo", text="for the log"))
            await asyncio.wait({reading}, timeout=0.2)
    line = reading.result()
    await followed.aclose()
    assert (line.service, line.replica, line.text) == ("echo", "echo-0", "echoing for the log")
    assert "echoing for the log" in [each.text async for each in deployment.logs("echo")]


async def test_a_deployment_is_deleted(client: Client, live_server: Any) -> None:
    file = live_server.file("passing")
    created = await client.apiserver.deployments.create(file.read_text(), base_path=file.parent)
    await created.delete(drain=0)
    with pytest.raises(ServerError) as caught:
        await created.delete()
    assert caught.value.status_code == 404


def test_the_synchronous_client_does_the_same(deployed: str) -> None:
    client = Client(api_server_url=deployed, timeout=60)
    deployment = client.sync.apiserver.deployments.get("sdk")
    handle = deployment.tasks.create(task("count"))
    assert handle.result().result == "counted"
    assert handle.status().state is TaskState.SUCCEEDED
    stream = handle.events(typed=True)
    assert next(stream).data == {"n": 0}
    stream.close()  # the reader has enough
    assert [event.data for event in handle.events(typed=True)][:3] == [{"n": n} for n in range(3)]
    assert handle.cancel().outcome == "already_finished"
    assert {each.service_name for each in deployment.services.list()} >= {"echo", "ask"}
    assert deployment.dead_letters.list() == []
    with pytest.raises(ServerError):
        list(deployment.logs("nobody"))


async def test_a_typed_stream_survives_a_server_that_restarts(
    live_server: Any, client: Client, tmp_path: Path
) -> None:
    """Last, because every connection to the server breaks."""
    deployment = await client.apiserver.deployments.get("sdk")
    gate = tmp_path / "gate"
    handle = await deployment.tasks.create(task("count", gate=str(gate)))
    shown: list[Any] = []

    async def read() -> None:
        async for item in handle.events(typed=True):
            if isinstance(item, StreamRestart):
                del shown[item.base_index :]
            else:
                shown.append(item.data)

    reading = asyncio.create_task(read())
    async with asyncio.timeout(20):
        while len(shown) < 3:
            await asyncio.sleep(0.01)
    live_server.process.kill()
    live_server.stop()
    assert not reading.done()
    await asyncio.to_thread(live_server.start)
    gate.touch()
    async with asyncio.timeout(40):
        await reading
    assert shown[:3] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert len(shown) == len([e async for e in handle.events()])
    assert (await handle.result()).result == "counted"


async def test_a_server_that_is_not_there_is_told_at_once() -> None:
    client = Client(api_server_url="http://127.0.0.1:9")
    from llamadeploy.client.tasks import Task

    async def read() -> AsyncIterator[Any]:
        async for item in Task(client, "d", "s", "t").events(typed=True):
            yield item

    with pytest.raises(httpx.ConnectError):
        await anext(read())
