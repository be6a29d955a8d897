"""The services under load, the same file on the original server, on ours, and bare."""

from __future__ import annotations

import asyncio

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent


class Tick(Event):
    count: int


class Echo(Workflow):
    @step
    async def echo(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"echo: {ev.get('message', '')}")


class Stream(Workflow):
    """Writes `n` events, yielding to the event loop after every hundred."""

    @step
    async def write(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for count in range(int(ev.get("n", 1))):
            ctx.write_event_to_stream(Tick(count=count))
            if count % 100 == 99:
                await asyncio.sleep(0)
        return StopEvent(result="streamed")


echo = Echo(timeout=None)
stream = Stream(timeout=None)
