"""Answers with the message it was sent."""

from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent


class EchoWorkflow(Workflow):
    @step
    async def run_step(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"Message received: {ev.get('message', '')}")


echo_workflow = EchoWorkflow()
