"""What is no blow: late answers, thousands that wait, one long session, a full disk."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.clients import Clients, states, until
from chaos.cluster import Cluster, memory, running
from chaos.rounds import clients_of
from chaos.servers import Pair

STYLES = {"ask": "work", "wait": "wait"}
"""The service of each style: a step that takes the answer, and ``wait_for_event``."""

MORE_MEMORY_FOR_PARKED = 24.0
"""MiB that a worker may gain by 2,000 tasks that wait: caches and the allocator, not tasks."""

MEMORY_LIMIT = 400.0
"""MiB of any process; a user of 0.8.1 reports 32 to 64 GB."""


@dataclass(frozen=True)
class Feat:
    """What was done and seen."""

    what: str
    pair: str
    seen: str
    held: bool
    notes: tuple[str, ...] = ()


async def answers_while_workers_die(
    servers: Pair, questions: int = 20, kills: int = 5
) -> list[Feat]:
    """Questions of both styles are asked, workers killed and replaced, and every answer comes out
    right."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        services = {service: {"replicas": 2} for service in STYLES.values()}
        cluster = Cluster(servers, Path(folder), services)
        async with running(cluster):
            return await asyncio.gather(
                *(_answer_all(cluster, style, questions, kills) for style in STYLES)
            )


async def _answer_all(cluster: Cluster, style: str, questions: int, kills: int) -> Feat:
    async with clients_of(cluster, STYLES[style]) as clients:
        late = [asyncio.Event() for _ in range(questions)]
        asking = [
            asyncio.create_task(clients.ask(number, late[number], style))
            for number in range(questions)
        ]
        stop = asyncio.Event()
        killing = asyncio.create_task(_kill_in_turn(cluster, STYLES[style], kills, stop))
        # One at a time: before the question was asked, while it is, after its worker is gone.
        for event in late:
            event.set()
            await asyncio.sleep(0.4)
        stop.set()
        killed = await killing
        await asyncio.wait(asking, timeout=60)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        wrong = clients.book.wrong() + clients.book.dirty
        right = clients.book.done - len(clients.book.wrong())
    return Feat(
        f"questions ({_style(style)}) answered while workers are killed and replaced",
        cluster.pair.name,
        f"{right} of {questions} right, {killed} workers killed",
        right == questions and not wrong,
        tuple(wrong[:5]),
    )


def _style(style: str) -> str:
    return "a step takes the answer" if style == "ask" else "`wait_for_event`"


async def _kill_in_turn(cluster: Cluster, service: str, least: int, stop: asyncio.Event) -> int:
    """Kill one, and the next one when the first is back: a task is given up after four deaths."""
    killed = 0
    workers = cluster.workers[service]
    while not stop.is_set() or killed < least:
        worker = workers[killed % len(workers)]
        worker.kill()
        worker.start()
        await worker.ready()
        killed += 1
    return killed


async def parked_tasks_cost_nothing(servers: Pair, tasks: int = 2000) -> Feat:
    """Thousands of tasks wait; the worker has no more memory than before, and all can be
    answered."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        cluster = Cluster(servers, Path(folder), {"work": {}}, control_planes=1, orchestrators=1)
        async with running(cluster), clients_of(cluster, "work") as clients:
            worker = cluster.workers["work"][0]
            # What the first tasks load stays loaded: it is no cost of waiting.
            await _park(clients, range(100))
            before = memory(worker)
            began = time.monotonic()
            await _park(clients, range(100, 100 + tasks))
            parked, after = time.monotonic() - began, memory(worker)
            await _each(clients.answer, range(100 + tasks))
            await asyncio.wait_for(_each(clients.result, range(100 + tasks)), 120)
            wrong = [text for text in clients.book.got.values() if not text.startswith("ask ans")]
            return Feat(
                f"{tasks} tasks wait for a person",
                servers.name,
                f"worker {before:.0f} MiB before, {after:.0f} MiB with all of them parked "
                f"({parked:.0f} s), all answered",
                after - before < MORE_MEMORY_FOR_PARKED and not wrong,
                tuple(wrong[:5]),
            )


async def _park(clients: Clients, numbers: range) -> None:
    async def create(number: int) -> None:
        await clients.create(number, "ask")

    await _each(create, numbers)

    async def all_wait() -> bool:
        found = [await clients.status(number) for number in numbers[-50:]]
        return states(found) == {"waiting": len(found)}

    await until(all_wait, f"{len(numbers)} tasks wait", 120)
    every = [await clients.status(number) for number in numbers]
    assert states(every) == {"waiting": len(numbers)}, states(every)


async def _each(do: object, numbers: range) -> None:
    assert callable(do)
    limit = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with limit:
            await do(number)

    await asyncio.gather(*map(one, numbers))


async def one_long_session(servers: Pair, tasks: int = 1000, workers: int = 8) -> Feat:
    """Tasks of one session, in order, each seeing what the ones before it left."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        cluster = Cluster(servers, Path(folder), {"work": {"replicas": workers}}, control_planes=3)
        async with running(cluster), clients_of(cluster, "work") as clients:
            began = time.monotonic()
            await asyncio.wait_for(clients.in_session(range(tasks), seconds=0.005), 150)
            seconds = time.monotonic() - began
            most = max((memory(process), process.name) for process in cluster.processes)
            wrong = clients.book.wrong() + clients.book.dirty
            return Feat(
                f"{tasks} tasks of one session, 3 control planes, {workers} workers",
                servers.name,
                f"{seconds:.0f} s, in order; the largest process ({most[1]}) has {most[0]:.0f} MiB",
                not wrong and most[0] < MEMORY_LIMIT,
                tuple(wrong[:5]),
            )
