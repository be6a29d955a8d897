"""One round: load, a blow when 40 % is done, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp

from chaos.blows import Blow
from chaos.clients import Clients, until
from chaos.cluster import Cluster
from chaos.field import Field

KILL_AT = 0.4
"""The share of the tasks that have their result when the blow falls."""

ALL_DONE_WITHIN = 10.0
"""Seconds from the moment when everything is ready again."""

AT_ONCE = 100
"""Tasks that clients have open: the others are created while things fall, or after it."""

PER_SESSION = 8
GIVE_UP_AFTER = 90.0
"""Seconds after which a round that does not end is a loss."""


@dataclass(frozen=True)
class Row:
    """What one round saw."""

    pair: str
    what: str
    tasks: int
    done_before: int
    lost: int
    wrong: int
    """Wrong or second results, and answers that told a client to give up."""
    put_off: int
    broken: int
    seconds: float
    """From everything ready to the last result."""
    begun: int
    """Runs begun beyond one per task."""
    twice: int
    """Tasks that ran to their end more than once."""
    trouble: str = ""
    """Why the blow could not be dealt, or not everything was ready again."""
    notes: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return not (self.lost or self.wrong or self.trouble) and self.seconds <= ALL_DONE_WITHIN


def load(clients: Clients, first: int, tasks: int, late: asyncio.Event) -> list[Any]:
    """Clients of every kind, in turn; every second question is answered only after the blow."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(client: Coroutine[Any, Any, None], places: int = 1) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(places):
                await stack.enter_async_context(limit)
            await client

    work: list[Any] = []
    number = first
    while number < first + tasks:
        kind = len(work) % 20
        if kind in (0, 10) and number + PER_SESSION <= first + tasks:
            work.append(one(clients.in_session(range(number, number + PER_SESSION))))
            number += PER_SESSION
            continue
        if kind < 5:
            work.append(one(clients.create_and_wait(number)))
        elif kind < 8:
            work.append(one(clients.follow(number)))
        elif kind == 8:
            work.append(one(clients.ask(number)))
        elif kind == 9:
            # Outside of the limit: they wait for the blow and must not hold up the others.
            work.append(clients.ask(number, late))
        else:
            work.append(one(clients.run(number)))
        number += 1
    return work


@contextlib.asynccontextmanager
async def clients_of(cluster: Cluster, service: str = "work") -> AsyncIterator[Clients]:
    """Clients with connections enough for every task to have its own."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=cluster.headers) as http:
        yield Clients(http, cluster.urls, service)


async def one_round(field: Field, blow: Blow, tasks: int) -> Row:
    """Raises nothing for a loss: the row tells."""
    async with clients_of(field.cluster) as clients:
        return await _Round(field, blow, clients, tasks).play()


class _Round:
    def __init__(self, field: Field, blow: Blow, clients: Clients, tasks: int) -> None:
        self.field = field
        self.blow = blow
        self.clients = clients
        self.book = clients.book
        self.first = field.take_numbers(tasks)
        self.tasks = tasks
        self.notes: list[str] = []
        self.trouble = ""

    async def play(self) -> Row:
        cluster = self.field.cluster
        fallen = len(cluster.ended_by_themselves)
        late = asyncio.Event()
        work = [asyncio.ensure_future(w) for w in load(self.clients, self.first, self.tasks, late)]
        done, ready = 0, time.monotonic()
        try:
            await until(lambda: self.book.done >= KILL_AT * self.tasks, "40 % are done")
            done = self.book.done
            await self.blow.strike(self.field)
            ready = await cluster.all_ready()
        except AssertionError as error:
            self.trouble = str(error)[:1500]
        # Also when the round has failed: what is lost is another question.
        late.set()
        await asyncio.wait(work, timeout=GIVE_UP_AFTER)
        ended = time.monotonic()
        lost = await self._give_up(work)
        wrong = await self._check()
        runs = [run for run in cluster.runs() if run[1] >= self.first]
        ends = Counter(number for what, number, _, _ in runs if what == "end")
        self.notes += [f"ended by itself: {n}" for n in cluster.ended_by_themselves[fallen:]]
        return Row(
            pair=cluster.pair.name,
            what=self.blow.name.format(f"{self.field.pause:g}"),
            tasks=self.tasks,
            done_before=done,
            lost=lost,
            wrong=wrong,
            put_off=self.book.put_off,
            broken=self.book.broken,
            seconds=round(ended - ready, 1),
            begun=sum(what == "begin" for what, _, _, _ in runs) - self.tasks,
            twice=sum(count > 1 for count in ends.values()),
            trouble=self.trouble,
            notes=tuple(self.notes),
        )

    async def _give_up(self, work: list[asyncio.Future[None]]) -> int:
        """End clients that still wait; how many tasks have no result."""
        for waiting in work:
            waiting.cancel()
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.notes.append(repr(outcome)[:300])
        missing = sorted(set(range(self.first, self.first + self.tasks)) - set(self.book.got))
        for number in [n for n in missing if n in self.book.ids][:5]:
            with contextlib.suppress(TimeoutError, AssertionError):
                status = await asyncio.wait_for(self.clients.status(number), 5)
                self.notes.append(f"task {number}: {status}")
        return len(missing)

    async def _check(self) -> int:
        """Wrong results, second results, false answers."""
        found = self.book.wrong() + self.book.dirty
        ends = {
            (number, run) for what, number, run, _ in self.field.cluster.runs() if what == "end"
        }
        for number, text in self.book.got.items():
            if (number, text.rpartition(" ")[2]) not in ends:
                found.append(f"{number}: no run ended with {text!r}")
        try:
            again = self.clients.check_again(sorted(self.book.got))
            found += await asyncio.wait_for(again, 60)
        except (TimeoutError, AssertionError) as error:
            found.append(f"asking again: {error!r}")
        self.notes += found[:10]
        return len(found)
