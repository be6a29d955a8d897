"""The workflows under load. Each run notes what it did in a file that outlives every process."""

from __future__ import annotations

import asyncio
import os
import uuid

from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

from llamadeploy import call_service

TICKS = 5


class Tick(Event):
    """One event of a stream."""

    number: int


def note(what: str, number: int, run: str = "-") -> None:
    """One line, appended in one write."""
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{what} {number} {run} {os.getpid()}\n")


def ended(kind: str, value: object, number: int) -> StopEvent:
    """A result that names its run, so that two results of a task can be told apart."""
    run = uuid.uuid4().hex[:12]
    note("end", number, run)
    return StopEvent(result=f"{kind} {value} {run}")


class Work(Workflow):
    """Tasks of about 50 ms; ``ask`` waits for a person in a step of its own."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent | InputRequiredEvent:
        note("begin", ev.number)
        if ev.kind == "ask":
            note("asked", ev.number)
            return InputRequiredEvent(prefix=str(ev.number))
        for tick in range(TICKS):
            await asyncio.sleep(ev.get("seconds", 0.05) / TICKS)
            if ev.kind == "stream":
                ctx.write_event_to_stream(Tick(number=tick))
        value = ev.number
        if ev.kind == "count":
            value = await ctx.store.get("count", default=0) + 1
            await ctx.store.set("count", value)
        return ended(ev.kind, value, ev.number)

    @step
    async def answered(self, ctx: Context, ev: HumanResponseEvent) -> StopEvent:
        await asyncio.sleep(0.05)
        return ended("ask", ev.response, ev.number)


class Wait(Workflow):
    """The other style of asking a person."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        note("begin", ev.number)
        note("asked", ev.number)
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=InputRequiredEvent(prefix=str(ev.number))
        )
        await asyncio.sleep(0.05)
        return ended("wait", answer.response, ev.number)


class Call(Workflow):
    """Has the work done by another service."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        note("begin", ev.number)
        answer = await call_service("work", kind="run", number=-ev.number)
        return ended("call", answer.rpartition(" ")[0], ev.number)


work = Work(timeout=120)
wait = Wait(timeout=120)
call = Call(timeout=120)
