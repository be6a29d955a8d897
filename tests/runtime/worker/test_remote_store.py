"""The store over HTTP: batches, errors with their type, tokens, outages."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from llamadeploy.control_plane.routes.internal import internal_router
from llamadeploy.exceptions import ConflictError, NotFoundError, StoreError, StoreUnavailableError
from llamadeploy.http.serving import HttpServer, TokenMiddleware
from llamadeploy.state_stores.records import (
    Completion,
    Dropped,
    ExecutionKey,
    InboundEvent,
    NewEvent,
    NewTask,
    StartRequest,
)
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import TaskState
from llamadeploy.worker.operations import invoke
from llamadeploy.worker.remote_store import BATCH_CALLS, RemoteExecutionStore


class Plane:
    """The store alone behind the internal API; counts requests, and can be held or broken."""

    def __init__(self, store) -> None:
        self.store = store
        self.executed: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.raises: Exception | None = None

    async def execute(self, op, request):
        self.executed.append(op)
        await self.held.wait()
        if self.raises is not None:
            raise self.raises
        return await invoke(self.store, op, request)


@pytest.fixture
async def plane():
    store = await open_store("memory://", "tests.remote")
    yield Plane(store)
    await store.aclose()


@pytest.fixture
async def requests():
    return []


@pytest.fixture
async def server(plane, requests):
    app = FastAPI()

    async def counting(scope, receive, send):
        if scope["type"] == "http":
            requests.append(scope["path"])
        await app(scope, receive, send)

    app.include_router(internal_router(plane))
    async with HttpServer(counting) as server:
        yield server


@pytest.fixture
async def remote(server):
    store = RemoteExecutionStore(server.url)
    yield store
    await store.aclose()


async def started(plane, remote, task_id="t") -> ExecutionKey:
    await plane.store.create_task(
        NewTask(task_id=task_id, session_id=task_id, service="s", input="{}", new_session=True)
    )
    execution = await remote.start(
        StartRequest(task_id=task_id, execution_id=task_id, worker_id="w", lease=60.0)
    )
    return execution.key


async def test_each_operation_arrives_and_answers_with_its_type(plane, remote):
    key = await started(plane, remote)
    assert key == ExecutionKey("t", 1)
    unknown = StartRequest(task_id="?", execution_id="e", worker_id="w", lease=1.0)
    assert await remote.start(unknown) == Dropped("unknown")
    assert await remote.append_events(key, [NewEvent(0, "E", '{"a":1}')]) is True
    assert await remote.append_events(ExecutionKey("t", 7), [NewEvent(0, "E", "{}")]) is False
    await plane.store.append_inbound("t", "hello")
    assert await remote.read_inbound(key, 0) == [InboundEvent(1, "hello")]
    renewal, stale = await remote.renew("w", [key, ExecutionKey("t", 9)], 60.0)
    assert (renewal.alive, renewal.inbound_seq, stale.alive) == (True, 1, False)
    assert (await remote.release(key)).accepted
    key = (
        await remote.start(StartRequest(task_id="t", execution_id="2", worker_id="w", lease=60.0))
    ).key
    end = Completion(
        key=key,
        state=TaskState.SUCCEEDED,
        result="ümläut \u2028",
        data={"n": [1, None]},
        events=(NewEvent(1, "Stop", "{}"),),
    )
    assert (await remote.finish(end)).accepted
    assert not (
        await remote.finish(end.__class__(key=ExecutionKey("t", 1), state=end.state, result="late"))
    ).accepted
    record = await plane.store.get_task("t")
    assert (record.result, record.data) == ("ümläut \u2028", {"n": [1, None]})
    assert isinstance(await remote.add_dead_letter("why", "what", "s"), int)


async def test_calls_of_one_moment_share_a_request(plane, remote, requests):
    keys = await asyncio.gather(*[started(plane, remote, f"t{n}") for n in range(100)])
    requests.clear()
    await asyncio.gather(*[remote.append_events(key, [NewEvent(0, "E", "{}")]) for key in keys])
    assert len(requests) == 1


async def test_calls_made_meanwhile_share_the_next_request(plane, remote, requests, eventually):
    key = await started(plane, remote)
    requests.clear()
    plane.held.clear()
    calls = []
    for index in range(20):
        calls.append(asyncio.create_task(remote.append_events(key, [NewEvent(index, "E", "{}")])))
        await eventually(lambda: remote._waiting or remote._sending)
        await asyncio.sleep(0)
    plane.held.set()
    assert await asyncio.gather(*calls) == [True] * 20
    assert len(requests) <= 4


async def test_a_request_holds_a_bounded_number_of_calls(plane, remote, requests):
    key = await started(plane, remote)
    requests.clear()
    await asyncio.gather(*[remote.read_inbound(key, 0) for _ in range(BATCH_CALLS + 1)])
    assert len(requests) == 2


@pytest.mark.parametrize("error", [ConflictError, NotFoundError, StoreUnavailableError, StoreError])
async def test_errors_keep_their_type_and_text(plane, remote, error):
    plane.raises = error("why it failed")
    with pytest.raises(error, match="why it failed") as caught:
        await remote.read_inbound(ExecutionKey("t", 1), 0)
    assert type(caught.value) is error


async def test_a_fault_of_one_operation_leaves_its_neighbours_alone(plane, remote):
    key = await started(plane, remote)
    plane_execute = plane.execute

    async def failing(op, request):
        if op == "read_inbound":
            raise RuntimeError("secret detail")
        return await plane_execute(op, request)

    plane.execute = failing
    good, bad = await asyncio.gather(
        remote.append_events(key, [NewEvent(0, "E", "{}")]),
        remote.read_inbound(key, 0),
        return_exceptions=True,
    )
    assert good is True
    assert type(bad) is StoreError
    assert "secret" not in str(bad)


async def test_a_cancelled_call_does_not_disturb_the_others(plane, remote):
    key = await started(plane, remote)
    plane.held.clear()
    first = asyncio.create_task(remote.read_inbound(key, 0))
    second = asyncio.create_task(remote.append_events(key, [NewEvent(0, "E", "{}")]))
    await asyncio.sleep(0)
    first.cancel()
    plane.held.set()
    assert await second is True
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_nobody_there_is_unavailable_and_passes(server, plane):
    remote = RemoteExecutionStore(server.url)
    key = await started(plane, remote)
    port = server.port
    await server.stop(0.0)
    with pytest.raises(StoreUnavailableError, match="not reachable"):
        await remote.read_inbound(key, 0)
    app = FastAPI()
    app.include_router(internal_router(plane))
    async with HttpServer(app, port=port):
        assert await remote.read_inbound(key, 0) == []
        await remote.aclose()


@pytest.mark.parametrize("status", [500, 502, 503, 404])
async def test_an_answer_that_is_not_ours_is_unavailable(status):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await Response("<html>proxy</html>", status_code=status)(scope, receive, send)

    async with HttpServer(app) as server:
        remote = RemoteExecutionStore(server.url)
        with pytest.raises(StoreUnavailableError, match=str(status)):
            await remote.read_inbound(ExecutionKey("t", 1), 0)
        await remote.aclose()


async def test_the_token_is_sent(plane):
    app = FastAPI()
    app.include_router(internal_router(plane))
    app.add_middleware(TokenMiddleware, token="right")
    async with HttpServer(app) as server:
        for token, answer in (("right", []), ("wrong", None), (None, None)):
            remote = RemoteExecutionStore(server.url, token)
            if answer is None:
                with pytest.raises(StoreUnavailableError, match="token") as caught:
                    await remote.read_inbound(ExecutionKey("t", 1), 0)
                assert "wrong" not in str(caught.value).replace("missing or wrong", "")
            else:
                assert await remote.read_inbound(ExecutionKey("t", 1), 0) == answer
            await remote.aclose()


async def test_closing_ends_what_is_on_its_way(plane, server):
    remote = RemoteExecutionStore(server.url)
    key = await started(plane, remote)
    plane.held.clear()
    call = asyncio.create_task(remote.read_inbound(key, 0))
    await asyncio.sleep(0.05)
    await remote.aclose()
    with pytest.raises(StoreUnavailableError):
        await call
    plane.held.set()
