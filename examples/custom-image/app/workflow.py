"""Says where it runs."""

from pathlib import Path

from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent


class WhereAmI(Workflow):
    @step
    async def answer(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"This file is {Path(__file__).name}")


where = WhereAmI()
