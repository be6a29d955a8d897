"""The server is killed, restarted, stopped in its tracks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from llamadeploy.exceptions import StoreUnavailableError
from llamadeploy.state_stores.postgresql import connection, lanes
from llamadeploy.state_stores.records import Completion, Execution, NewTask, StartRequest
from llamadeploy.types import TaskState


async def create(store: Any, task_id: str) -> None:
    await store.create_task(
        NewTask(task_id=task_id, session_id=task_id, service="echo", input="{}", new_session=True)
    )


async def until_back(store: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.ping()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)
            else:
                return


@pytest.mark.rule(1, 3)
async def test_a_killed_server_forgets_nothing_it_confirmed(
    own_postgresql: Any, open_store: Any
) -> None:
    store = await open_store(own_postgresql.uri)
    confirmed: list[str] = []
    stop = asyncio.Event()

    async def write(worker: int) -> None:
        number = 0
        while not stop.is_set():
            name = f"t{worker}-{number}"
            number += 1
            try:
                await create(store, name)
                run = await store.start(
                    StartRequest(task_id=name, execution_id=name, worker_id="w", lease=60)
                )
                if not isinstance(run, Execution):
                    continue
                finished = await store.finish(
                    Completion(key=run.key, state=TaskState.SUCCEEDED, result=name)
                )
            except StoreUnavailableError:
                await asyncio.sleep(0.01)
                continue
            if finished.accepted:
                confirmed.append(name)

    writers = [asyncio.create_task(write(n)) for n in range(4)]
    for _ in range(2):
        goal = len(confirmed) + 30
        async with asyncio.timeout(20):
            while len(confirmed) < goal:
                await asyncio.sleep(0.01)
        own_postgresql.kill()
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1"):
            await store.ping()
        own_postgresql.start()
        await until_back(store)
    stop.set()
    await asyncio.gather(*writers)
    for name in confirmed:
        record = await store.get_task(name)
        assert (record.state, record.result) == (TaskState.SUCCEEDED, name)


async def test_a_restart_between_two_calls_goes_unnoticed(
    own_postgresql: Any, open_store: Any
) -> None:
    store = await open_store(own_postgresql.uri)
    await create(store, "t")
    own_postgresql.stop()
    own_postgresql.start()
    assert await store.get_input("t") == "{}"


async def test_a_server_that_stops_answering_is_away_and_comes_back(
    own_postgresql: Any, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "OPERATION_SECONDS", 0.5)
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    store = await open_store(own_postgresql.uri)
    await create(store, "t")
    own_postgresql.freeze()
    try:
        started = time.monotonic()
        replies = await asyncio.gather(
            *(store.get_input("t") for _ in range(20)), return_exceptions=True
        )
        assert {type(reply) for reply in replies} == {StoreUnavailableError}
        assert time.monotonic() - started < 5, "all of them wait at the same time"
    finally:
        own_postgresql.thaw()
    await until_back(store)
    assert await store.get_input("t") == "{}"


async def test_whoever_gives_up_waiting_takes_nothing_back(
    own_postgresql: Any, open_store: Any
) -> None:
    store = await open_store(own_postgresql.uri)
    waiting = asyncio.ensure_future(create(store, "t"))
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(5):
        while await store.get_task("t") is None:
            await asyncio.sleep(0.005)
