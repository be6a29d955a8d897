"""Counts to a number and streams its progress."""

import asyncio

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent


class ProgressEvent(Event):
    count: int
    of: int


class Counter(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        last = int(ev.get("to", 5))  # the command line sends every argument as text
        pause = float(ev.get("pause", 0.2))
        for number in range(1, last + 1):
            await asyncio.sleep(pause)
            ctx.write_event_to_stream(ProgressEvent(count=number, of=last))
        return StopEvent(result=f"Counted to {last}")


counter = Counter()
