"""Workflows that do what nobody expects: each of their tasks ends all the same, and soon."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

WORKFLOW = """
import asyncio, time
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, StartEvent, StopEvent

class Note(Event):
    text: str

class Work(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return await getattr(self, ev.kind)(ctx, ev)

    async def result(self, ctx, ev):
        return StopEvent(result="a\\ud800b")

    async def event(self, ctx, ev):
        ctx.write_event_to_stream(Note(text="a\\ud800b"))
        return StopEvent(result="done")

    async def error(self, ctx, ev):
        raise ValueError("a\\ud800b")

    async def context(self, ctx, ev):
        await ctx.store.set("text", "a\\ud800b")
        return StopEvent(result="x")

    async def nul(self, ctx, ev):
        return StopEvent(result="a\\x00b")

    async def given(self, ctx, ev):
        return StopEvent(result=ascii(ev.text))

    async def large(self, ctx, ev):
        return StopEvent(result="x" * (40 << 20))

    async def blocked_thread(self, ctx, ev):
        await asyncio.to_thread(time.sleep, 8)
        return StopEvent(result="too late")

    async def system_exit(self, ctx, ev):
        raise SystemExit(3)

    async def keyboard_interrupt(self, ctx, ev):
        raise KeyboardInterrupt

    async def cancels_itself(self, ctx, ev):
        raise asyncio.CancelledError

    async def deep(self, ctx, ev):
        value = []
        for _ in range(5000):
            value = [value]
        await ctx.store.set("deep", value)
        return StopEvent(result="done")

    async def ask(self, ctx, ev):
        answer = await ctx.wait_for_event(HumanResponseEvent)
        return StopEvent(result=ascii(answer.response))

    async def many_events(self, ctx, ev):
        for number in range(20_000):
            ctx.write_event_to_stream(Note(text="x" * 100))
        return StopEvent(result="done")

work = Work()
"""


@pytest.fixture(scope="module")
def laptop(start_laptop: Any) -> Any:
    return start_laptop(WORKFLOW, replicas=1, timeoutSeconds=2)


async def finished(users: Any, kind: str, within: float = 10, **arguments: Any) -> dict[str, Any]:
    """The result of a task of that kind; it may never take longer than ``within`` seconds."""
    body = {"input": json.dumps({"kind": kind, **arguments}), "service_id": "work"}
    task = await users.call("POST", "/tasks/create", body)
    began = time.monotonic()
    result = None
    while result is None:
        assert time.monotonic() - began < within, f"{kind}: {users.laptop.tail()}"
        result = await users.call("GET", users.path(task, "/results") + "&wait=1")
    return {**result, "attempts": (await users.call("GET", users.path(task, "")))["attempts"]}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("result", "a\ufffdb"),
        ("event", "done"),
        ("error", "a\ufffdb"),
        ("nul", "a\x00b"),
    ],
)
async def test_text_that_is_no_unicode(laptop: Any, clients: Any, kind: str, expected: str) -> None:
    users = clients(laptop)
    await users.ready()
    result = await finished(users, kind)
    assert (result["result"], result["attempts"]) == (expected, 1)


async def test_arguments_that_are_no_unicode(laptop: Any, clients: Any) -> None:
    users = clients(laptop)
    await users.ready()
    result = await finished(users, "given", text="a\ud800b")
    assert result["attempts"] == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("deep", "the workflow's context cannot be saved"),
        ("system_exit", "step 'begin' raised SystemExit (3)"),
        ("keyboard_interrupt", "step 'begin' raised KeyboardInterrupt"),
        ("cancels_itself", "step 'begin' awaited something that was cancelled"),
    ],
)
@pytest.mark.rule(5)
@pytest.mark.defect(12)
async def test_what_cannot_go_on_fails_once_and_harms_nobody(
    laptop: Any, clients: Any, kind: str, message: str
) -> None:
    users = clients(laptop)
    await users.ready()
    workers = await users.workers()
    result = await finished(users, kind, within=5)
    assert (result["data"]["state"], result["attempts"]) == ("failed", 1)
    assert result["result"].startswith(message)
    assert (await finished(users, "given", text="still here"))["result"] == "'still here'"
    assert await users.workers() == workers


@pytest.mark.parametrize("kind", ["large", "context"])
async def test_what_is_large_or_odd_is_kept(laptop: Any, clients: Any, kind: str) -> None:
    users = clients(laptop)
    await users.ready()
    result = await finished(users, kind)
    assert (result["result"], result["attempts"]) == ("x" * (40 << 20 if kind == "large" else 1), 1)


@pytest.mark.rule(11)
async def test_a_blocked_thread_does_not_hold_its_tasks_result_back(
    laptop: Any, clients: Any
) -> None:
    """Its slot stays taken until the thread ends, but whoever waits hears of the time-out."""
    users = clients(laptop)
    await users.ready()
    result = await finished(users, "blocked_thread", within=5)
    assert "timed out" in result["result"]


async def test_more_events_than_fit_into_memory_at_once(laptop: Any, clients: Any) -> None:
    users = clients(laptop)
    await users.ready()
    assert (await finished(users, "many_events", within=20))["result"] == "done"


async def test_many_at_once(laptop: Any, clients: Any) -> None:
    users = clients(laptop)
    await users.ready()
    kinds = ["result", "event", "error", "context"] * 10
    results = await asyncio.gather(*[finished(users, kind, within=20) for kind in kinds])
    assert {result["attempts"] for result in results} == {1}


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.defect(11)
async def test_json_that_is_too_deep_is_refused(laptop: Any, clients: Any) -> None:
    users = clients(laptop)
    await users.ready()
    url = f"{laptop.url}/deployments/chaos"
    asked = await users.call("POST", "/tasks/create", users.task(1, "ask"))
    event = '{"__is_pydantic": true, "qualified_name": "workflows.events.HumanResponseEvent", '
    refused = [
        ("/tasks/create", json.dumps({"input": f'{{"a": {DEEP}}}'})),
        ("/tasks/create", f'{{"input": {DEEP}}}'),
        (
            users.path(asked, "/events"),
            json.dumps({"service_id": "work", "event_obj_str": event + f'"value": {DEEP}}}'}),
        ),
        (users.path(asked, "/events"), DEEP),
    ]
    for path, body in refused:
        headers = {"Content-Type": "application/json"}
        async with users.http.post(url + path, data=body, headers=headers) as reply:
            assert reply.status in (400, 422), (path, reply.status, (await reply.text())[:300])
    answer = json.dumps(
        {
            "__is_pydantic": True,
            "qualified_name": "workflows.events.HumanResponseEvent",
            "value": {"response": "a\ud800b"},
        }
    )
    body = {"service_id": "work", "event_obj_str": answer}
    await users.call("POST", users.path(asked, "/events"), body)
    await users.result(1, asked)
    assert users.book.got[1] == ascii("a\ud800b")
