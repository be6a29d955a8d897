"""Counts down, and streams every number."""

import asyncio

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent


class Tick(Event):
    left: int


class Countdown(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for left in range(int(ev.get("seconds", 5)), 0, -1):
            ctx.write_event_to_stream(Tick(left=left))
            await asyncio.sleep(float(ev.get("pause", 1)))
        return StopEvent(result="Lift-off!")


countdown = Countdown()
