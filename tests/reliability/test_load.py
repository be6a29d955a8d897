"""Many tasks, clients that go away, and a server that is silent for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

WORKFLOW = """
import asyncio
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

class Tick(Event):
    number: int

class Work(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        count = await ctx.store.get("count", default=0) + 1
        await ctx.store.set("count", count)
        if ev.kind == "slow":
            for number in range(10):
                await asyncio.sleep(0.1)
                ctx.write_event_to_stream(Tick(number=number))
        return StopEvent(result=f"{ev.kind} {count}")

work = Work()
"""


@pytest.fixture(scope="module")
def laptop(start_laptop: Any) -> Any:
    return start_laptop(WORKFLOW)


async def in_turn(work: Iterable[Coroutine[Any, Any, Any]], at_once: int = 64) -> list[Any]:
    """All results, with at most ``at_once`` under way."""
    gate = asyncio.Semaphore(at_once)

    async def one(each: Coroutine[Any, Any, Any]) -> Any:
        async with gate:
            return await each

    return await asyncio.gather(*map(one, work))


@pytest.mark.rule(4)
async def test_a_thousand_sessions_of_one_task(laptop: Any, clients: Any) -> None:
    users = clients(laptop)
    await users.ready()

    async def one(number: int) -> str:
        session = (await users.call("POST", "/sessions/create"))["session_id"]
        path = f"/tasks/run?session_id={session}"
        return str(await users.call("POST", path, users.task(number, "quick")))

    assert await in_turn(map(one, range(1000))) == ["quick 1"] * 1000


@pytest.mark.rule(4)
@pytest.mark.defect(1)
async def test_a_thousand_tasks_of_one_session(laptop: Any, clients: Any) -> None:
    """Each sees what the one before it left; none is lost, none runs twice."""
    users = clients(laptop)
    await users.ready()
    session = (await users.call("POST", "/sessions/create"))["session_id"]
    tasks = [await users.create(number, "quick", session) for number in range(1000)]
    await in_turn(users.result(number, task) for number, task in enumerate(tasks))
    assert [users.book.got[number] for number in range(1000)] == [
        f"quick {place}" for place in range(1, 1001)
    ]


@pytest.mark.rule(13)
async def test_clients_that_go_away_leave_nothing_behind(laptop: Any, clients: Any) -> None:
    # Clients that keep no connection, so that what stays open is the server's doing.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        users = type(clients(laptop))(http, laptop)
        await users.ready()
        await users.run(0)
        before = await settled(lambda: handles(laptop.process.pid))
        tasks = [await users.create(number, "slow") for number in range(40)]
        await come_and_go(users, tasks, before)
        # Also the tasks whose result nobody will ever read end.
        listed = await users.call("GET", "/tasks")
        assert len(listed) >= 80
        await in_turn(users.result(number, task) for number, task in enumerate(listed))
        await until(lambda: handles(laptop.process.pid) <= before + 2, "all is closed")


async def come_and_go(users: Any, tasks: list[dict[str, Any]], before: int) -> None:
    """Ask for stream, result and another run of each task, and hang up."""
    url = f"{users.laptop.url}/deployments/chaos"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as leaving:
        gone = [
            asyncio.create_task(leaving.request(method, url + path, json=body))
            for task in tasks
            for method, path, body in (
                ("GET", users.path(task, "/events"), None),
                ("GET", users.path(task, "/results") + "&wait=60", None),
                ("POST", "/tasks/run", users.task(0, "slow")),
            )
        ]
        pid = users.laptop.process.pid
        await until(lambda: handles(pid) > before + 80, "all are connected")
        for each in gone:
            each.cancel()
        await asyncio.gather(*gone, return_exceptions=True)


@pytest.mark.rule(1)
async def test_a_server_that_is_silent_for_longer_than_the_leases(
    laptop: Any, clients: Any
) -> None:
    """Its workers cannot reach it meanwhile; they go on, and so do their clients."""
    users = clients(laptop)
    await users.ready()
    workers = await users.workers()
    tasks = [await users.create(number, "slow") for number in range(40)]
    await asyncio.sleep(0.5)  # tasks are under way, some events are written
    os.kill(laptop.process.pid, signal.SIGSTOP)
    await asyncio.sleep(9)
    os.kill(laptop.process.pid, signal.SIGCONT)
    await asyncio.wait_for(
        in_turn(users.result(number, task) for number, task in enumerate(tasks)), 30
    )
    assert {users.book.got[number] for number in range(40)} == {"slow 1"}
    assert await users.workers() == workers, "a worker was restarted"
    for task in tasks:
        async with users.http.get(
            laptop.url + "/deployments/chaos" + users.path(task, "/events")
        ) as reply:
            lines = (await reply.text()).split("\n")
        assert [line for line in lines if line.strip()][-1] == "{}"


def handles(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def settled(value: Callable[[], int]) -> int:
    """The value once it has not changed for a moment."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < 0.5:
        await asyncio.sleep(0.05)
        if (now := value()) != last:
            last, since = now, time.monotonic()
    return last


async def until(condition: Callable[[], bool], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
