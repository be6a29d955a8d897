"""The services that the compatibility suite drives, on the original server and on ours."""

from __future__ import annotations

import asyncio
import os

from workflows import Context, Workflow, step
from workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)


class Progress(Event):
    """An event with a declared field; a reader sees `{"count": n}`."""

    count: int


class Echo(Workflow):
    @step
    async def echo(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"echo: {ev.get('message', '')}")


class Counter(Workflow):
    """Counts the runs of its session in the Context."""

    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        runs = await ctx.store.get("runs", default=0) + 1
        await ctx.store.set("runs", runs)
        return StopEvent(result=runs)


class Streamer(Workflow):
    """Writes `n` declared events and one with a dynamic field."""

    @step
    async def write(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for count in range(int(ev.get("n", 3))):
            ctx.write_event_to_stream(Progress(count=count))
        ctx.write_event_to_stream(Event(note="dynamic"))
        return StopEvent(result="streamed")


class Ask(Workflow):
    """Human in the loop with a step that takes the answer."""

    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="How old are you?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=f"You are {ev.response}")


class Wait(Workflow):
    """Human in the loop with `wait_for_event`."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        question = InputRequiredEvent(prefix="Go on?")
        reply = await ctx.wait_for_event(HumanResponseEvent, waiter_event=question)
        return StopEvent(result=f"You said {reply.response}")


class Fail(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no luck")


class Slow(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(float(ev.get("seconds", 1)))
        return StopEvent(result="slept")


class Version(Workflow):
    """Tells which release of its source and of its environment it runs with."""

    @step
    async def tell(self, ev: StartEvent) -> StopEvent:
        from release import RELEASE

        return StopEvent(result=f"{RELEASE} {os.environ.get('COMPAT_STAGE')}")


echo = Echo(timeout=None)
counter = Counter(timeout=None)
streamer = Streamer(timeout=None)
ask = Ask(timeout=None)
wait = Wait(timeout=None)
fail = Fail(timeout=None)
slow = Slow(timeout=None)
version = Version(timeout=None)
