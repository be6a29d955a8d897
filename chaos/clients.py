"""Clients that never give up, and keep book of what they were told."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp

from chaos.cluster import DEPLOYMENT

TICKS = 5
FAILURES = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""The connection broke, or there is none, or nothing came in time."""


class DirtyAnswer(AssertionError):
    """A client was told something that was not true."""


class Book:
    """What clients asked for, what they got, and what they had to put up with."""

    def __init__(self) -> None:
        self.expected: dict[int, str] = {}
        """Number -> the result without the name of its run."""
        self.got: dict[int, str] = {}
        self.ids: dict[int, tuple[str, str]] = {}
        """Number -> session and task, for those that were created under their own ids."""
        self.sessions: dict[str, int] = {}
        """Session -> how many tasks it must have."""
        self.broken = 0
        """Broken or refused connections, and time-outs."""
        self.put_off = 0
        """Answers 503 with Retry-After."""
        self.dirty: list[str] = []

    @property
    def done(self) -> int:
        return len(self.got)

    def wrong(self) -> list[str]:
        """Results that are not the expected ones."""
        return [
            f"{number}: {text!r}, not {self.expected[number]!r}"
            for number, text in self.got.items()
            if text.rpartition(" ")[0] != self.expected[number]
        ]


class Clients:
    """Calls to any of the control planes, repeated on the next one until they go through."""

    def __init__(self, http: aiohttp.ClientSession, urls: Sequence[str], service: str) -> None:
        self.http = http
        self.book = Book()
        self.service = service
        self._urls = urls
        self._turn: Iterator[int] = itertools.count()

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None,
        seconds: float = 60.0,
    ) -> Any:  # fmt: skip
        headers = {} if key is None else {"Idempotency-Key": key}
        timeout = aiohttp.ClientTimeout(total=seconds)
        while True:
            url = self._urls[next(self._turn) % len(self._urls)]
            try:
                async with self.http.request(
                    method, url + path, json=body, headers=headers, timeout=timeout
                ) as reply:
                    if await self._accepted(reply):
                        return await reply.json()
            except FAILURES:
                self.book.broken += 1
            await asyncio.sleep(0.1)

    async def _accepted(self, reply: aiohttp.ClientResponse) -> bool:
        """Whether there is an answer; else it is to be asked for again."""
        if reply.status == 200:
            return True
        if reply.status == 503 and "Retry-After" in reply.headers:
            self.book.put_off += 1
            return False
        text = await reply.text()
        self.book.dirty.append(f"{reply.method} {reply.url}: {reply.status} {text[:300]}")
        raise DirtyAnswer(self.book.dirty[-1])

    def definition(self, number: int, kind: str, **more: Any) -> dict[str, Any]:
        arguments = json.dumps({"kind": kind, "number": number, **more})
        return {"input": arguments, "service_id": self.service}

    # -- kinds of clients ----------------------------------------------------------------------
    async def run(self, number: int) -> None:
        """One call that waits for the result."""
        self.book.expected[number] = f"run {number}"
        self.book.got[number] = await self.run_again(number)

    async def run_again(self, number: int) -> str:
        path = f"/deployments/{DEPLOYMENT}/tasks/run"
        body = self.definition(number, "run")
        return str(await self.call("POST", path, body, key=f"run-{number}"))

    async def create(
        self, number: int, kind: str, session: str | None = None, **more: Any
    ) -> tuple[str, str]:
        """A task of our own id on one control plane; its session and id."""
        if session is None:
            session = str(await self.call("POST", "/sessions/create"))
            self.book.sessions[session] = 1
        body = {**self.definition(number, kind, **more), "task_id": str(uuid.uuid4())}
        task = await self.call("POST", f"/sessions/{session}/tasks", body)
        self.book.ids[number] = (session, task)
        return session, task

    async def result(self, number: int) -> None:
        self.book.got[number] = await self.result_of(number)

    async def result_of(self, number: int) -> str:
        session, task = self.book.ids[number]
        path = f"/sessions/{session}/tasks/{task}/result?wait=5"
        while True:
            result = await self.call("GET", path, seconds=15)
            if result is not None:
                return str(result["result"])

    async def create_and_wait(self, number: int) -> None:
        self.book.expected[number] = f"create {number}"
        await self.create(number, "create")
        await self.result(number)

    async def in_session(self, numbers: range, **more: Any) -> None:
        """Tasks of one session, all at once: each sees how many were before it."""
        session = str(await self.call("POST", "/sessions/create"))
        self.book.sessions[session] = len(numbers)
        waiting = []
        for place, number in enumerate(numbers, 1):
            self.book.expected[number] = f"count {place}"
            await self.create(number, "count", session, **more)
            waiting.append(asyncio.create_task(self.result(number)))
        await asyncio.gather(*waiting)

    async def follow(self, number: int) -> None:
        """A stream that is taken up again where it broke: no event twice, none left out."""
        self.book.expected[number] = f"stream {number}"
        await self.create(number, "stream")
        seen: list[int] = []
        position = [0]
        while not await self._read_on(number, seen, position):
            await asyncio.sleep(0.1)
        if seen != [*range(TICKS), -1]:
            self.book.dirty.append(f"the stream of {number} had {seen}")
        await self.result(number)

    async def _read_on(self, number: int, seen: list[int], position: list[int]) -> bool:
        """Read the stream from where ``seen`` ends; whether it came to its end."""
        session, task = self.book.ids[number]
        url = self._urls[next(self._turn) % len(self._urls)]
        path = f"{url}/sessions/{session}/tasks/{task}/result_stream"
        timeout = aiohttp.ClientTimeout(total=30)
        query: dict[str, str | int] = {"format": "typed", "after": position[0]}
        try:
            async with self.http.get(path, params=query, timeout=timeout) as reply:
                if not await self._accepted(reply):
                    return False
                async for raw in reply.content:
                    if not raw.strip():
                        continue
                    line = json.loads(raw)
                    if "restart" in line:
                        del seen[line["restart"]["base_index"] :]
                        continue
                    position[0] = line["seq"]
                    if line["index"] != len(seen):
                        self.book.dirty.append(f"stream of {number}: {line} behind {seen}")
                    seen.append(line["data"].get("number", -1))
        except FAILURES:
            self.book.broken += 1
            return False
        return True

    async def ask(
        self, number: int, answer_at: asyncio.Event | None = None, kind: str = "ask"
    ) -> None:
        """A task that waits for a person, who may take their time."""
        self.book.expected[number] = f"{kind} answer-{number}"
        await self.create(number, kind)
        if answer_at is not None:
            await answer_at.wait()
        await self.answer(number)
        await self.result(number)

    async def answer(self, number: int) -> None:
        session, task = self.book.ids[number]
        event = {
            "__is_pydantic": True,
            "value": {"_data": {"response": f"answer-{number}", "number": number}},
            "qualified_name": "workflows.events.HumanResponseEvent",
        }
        body = {"service_id": self.service, "event_obj_str": json.dumps(event)}
        await self.call("POST", f"/sessions/{session}/tasks/{task}/send_event", body)

    async def status(self, number: int) -> dict[str, Any]:
        session, task = self.book.ids[number]
        status: dict[str, Any] = await self.call("GET", f"/sessions/{session}/tasks/{task}")
        return status

    # -- afterwards ----------------------------------------------------------------------------
    async def check_again(self, numbers: Sequence[int]) -> list[str]:
        """What every control plane says now, against what clients were told before."""
        different = []
        limit = asyncio.Semaphore(50)

        async def again(number: int) -> None:
            async with limit:
                run = number not in self.book.ids
                for _ in self._urls:
                    text = await (self.run_again(number) if run else self.result_of(number))
                    if text != self.book.got[number]:
                        different.append(f"{number}: {self.book.got[number]!r}, then {text!r}")

        await asyncio.gather(*map(again, numbers))
        for session, tasks in self.book.sessions.items():
            found = await self.call("GET", f"/sessions/{session}/tasks")
            if len(found) != tasks:
                different.append(f"session {session} has {len(found)} tasks, not {tasks}")
        self.book.sessions.clear()
        return different


def states(statuses: Sequence[dict[str, Any]]) -> Counter[str]:
    """How many tasks are in each state."""
    return Counter(str(status["state"]) for status in statuses)


async def until(condition: Any, what: str, seconds: float = 60.0) -> None:
    """Wait for a condition, which may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if asyncio.iscoroutine(holds):
            holds = await holds
        if holds:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)
