"""Processes are killed under load: nothing is lost, nothing has two results, everything ends.

The short form runs with every test run; ``pytest tests/reliability/test_chaos.py -s
--chaos-rounds 10`` is the long one. The table it prints is in ``docs/reliability.md``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

RUNS, SESSIONS, PER_SESSION, STREAMS, QUESTIONS = 100, 8, 8, 40, 40
TASKS = RUNS + SESSIONS * PER_SESSION + STREAMS + QUESTIONS
KILL_AT = 0.4
"""The share of the tasks that have their result when the blow falls."""

ALL_DONE_WITHIN = 10.0
"""Seconds from the moment when everything is up again."""


def load(clients: Any, first: int, late: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
    """One round's clients; every second question is answered only after the blow."""
    number = first
    work = []
    for _ in range(RUNS):
        work.append(clients.run(number))
        number += 1
    for _ in range(SESSIONS):
        work.append(clients.in_session(range(number, number + PER_SESSION)))
        number += PER_SESSION
    for _ in range(STREAMS):
        work.append(clients.follow(number))
        number += 1
    for index in range(QUESTIONS):
        work.append(clients.ask(number, late if index % 2 else None))
        number += 1
    return work


async def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


async def kill_one_worker(laptop: Any, clients: Any) -> None:
    os.kill((await clients.workers())[0]["pid"], signal.SIGKILL)


async def kill_both_workers(laptop: Any, clients: Any) -> None:
    for worker in await clients.workers():
        os.kill(worker["pid"], signal.SIGKILL)


async def kill_everything(laptop: Any, clients: Any) -> None:
    pids = [worker["pid"] for worker in await clients.workers()]
    laptop.kill()
    for pid in pids:
        if laptop.alive(pid):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(map(laptop.alive, pids)), "the workers are gone")
    laptop.start()


async def kill_the_server(laptop: Any, clients: Any) -> None:
    """Its workers notice by themselves, and end."""
    pids = [worker["pid"] for worker in await clients.workers()]
    laptop.kill()
    laptop.start()
    await until(lambda: not any(map(laptop.alive, pids)), "the workers are gone")


BLOWS = (kill_one_worker, kill_both_workers, kill_everything, kill_the_server)
SHORT = BLOWS[:3]


async def one_round(laptop: Any, clients: Any, blow: Any, first: int) -> dict[str, Any]:
    book = clients.book
    began, before = time.monotonic(), book.done
    late = asyncio.Event()
    waiting = asyncio.gather(*load(clients, first, late))
    await until(lambda: book.done - before >= KILL_AT * TASKS or waiting.done(), "40 % are done")
    done = book.done - before
    assert done < TASKS, "all was over before the blow"
    await blow(laptop, clients)
    ready = await clients.ready()
    late.set()
    try:
        await asyncio.wait_for(waiting, ALL_DONE_WITHIN)
    except TimeoutError:
        missing = sorted(set(book.expected) - set(book.got))
        states = [
            await clients.state(book.tasks[n]) if n in book.tasks else "-" for n in missing[:20]
        ]
        pytest.fail(f"{len(missing)} tasks without a result: {states}\n{laptop.tail()}")
    ended = time.monotonic()
    return {
        "what was killed": blow.__name__.replace("_", " "),
        "tasks": TASKS,
        "done at the kill": done,
        "lost": TASKS - (book.done - before),
        "all done after ready, s": round(ended - ready, 1),
        "whole round, s": round(ended - began, 1),
    }


@pytest.mark.defect(8, 29)
@pytest.mark.rule(1, 3, 5)
@pytest.mark.timeout(600)
async def test_killed_processes_lose_nothing(
    laptop: Any, clients: Any, pytestconfig: pytest.Config
) -> None:
    users = clients(laptop)
    await users.ready()
    rows = []
    first = 0
    rounds = pytestconfig.getoption("--chaos-rounds", 0)
    for blow in BLOWS * rounds or SHORT:
        runs = len(laptop.runs())
        row = await one_round(laptop, users, blow, first)
        row["runs begun"] = sum(what == "begin" for what, _, _ in laptop.runs()[runs:])
        rows.append(row)
        first += TASKS
    print("\n" + table(rows))
    assert users.book.dirty == []
    assert users.book.got == users.book.expected
    await check_the_store(users, first)


async def check_the_store(users: Any, tasks: int) -> None:
    """What the server has agrees with what clients were told, long after the fact."""
    states = Counter([await users.state(task) for task in users.book.tasks.values()])
    assert states == {"succeeded": len(users.book.tasks)}
    again = [users.call("GET", users.path(t, "/results")) for t in users.book.tasks.values()]
    results = [reply["result"] for reply in await asyncio.gather(*again)]
    assert results == [users.book.expected[number] for number in users.book.tasks]
    assert len(users.book.expected) == tasks


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)])


@pytest.mark.rule(1)
async def test_a_worker_that_was_away_for_longer_than_its_lease_changes_nothing(
    laptop: Any, clients: Any
) -> None:
    users = clients(laptop)
    await users.ready()
    late = asyncio.Event()
    waiting = asyncio.gather(*load(users, 100_000, late))
    await until(lambda: users.book.done >= KILL_AT * TASKS, "40 % are done")
    workers = await users.workers()
    stopped = workers[0]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    late.set()
    held = open_runs(laptop, stopped)
    assert held, "the stopped worker ran nothing"
    await asyncio.wait_for(waiting, 25)
    assert users.book.got == users.book.expected
    told = await outcome(users)
    os.kill(stopped, signal.SIGCONT)
    await until(lambda: stale(laptop), "the worker tried to write what it had", 20)
    # It works on as before: nothing that it holds is in its way.
    await asyncio.wait_for(
        asyncio.gather(*[users.run(number) for number in range(200_000, 200_100)]), 20
    )
    assert stopped in {pid for _, number, pid in laptop.runs() if number >= 200_000}
    assert await outcome(users) == told
    assert users.book.got == users.book.expected
    assert users.book.dirty == []


def open_runs(laptop: Any, pid: int) -> set[int]:
    """Tasks that the process had begun and not ended."""
    runs = [(what, number) for what, number, by in laptop.runs() if by == pid]
    return {n for what, n in runs if what == "begin"} - {n for what, n in runs if what == "end"}


def stale(laptop: Any) -> bool:
    text = laptop.log.read_text(errors="replace")
    return "came too late" in text or "stopped: superseded" in text


async def outcome(users: Any) -> list[Any]:
    """All there is to know of every task: status, result and stream."""
    seen = []
    for task in users.book.tasks.values():
        status = await users.call("GET", users.path(task, ""))
        result = await users.call("GET", users.path(task, "/results"))
        url = users.url + "/deployments/chaos" + users.path(task, "/events")
        async with users.http.get(url + "&format=typed") as reply:
            seen.append((status, result, await reply.text()))
    return seen
