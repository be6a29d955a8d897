"""Live streams of the 0.8.1 SDK's `apiserver` half; its sync client returns them only whole."""

from __future__ import annotations

import json
from typing import Any

from llama_deploy.types import TaskDefinition
from llama_index.core.workflow.events import HumanResponseEvent
from steps import Steps

step = Steps()
run = step.run


def task(service: str, **kwargs: Any) -> TaskDefinition:
    return TaskDefinition(input=json.dumps(kwargs), service_id=service)


@step
async def idle_stream(client: Any, deployment: str) -> Any:
    """The SDK's stream gives up after five seconds without a byte."""
    found = await client.apiserver.deployments.get(deployment)
    created = await found.tasks.create(task("slow", seconds=6.5))
    return [line async for line in created.events()]


@step
async def answer_after_the_question(client: Any, deployment: str) -> Any:
    found = await client.apiserver.deployments.get(deployment)
    answers = {}
    for service in ("ask", "wait"):
        created = await found.tasks.create(task(service))
        lines = []
        async for line in created.events():
            lines.append(line)
            if "prefix" in str(line):
                await created.send_event(HumanResponseEvent(response="42"), service)
        result = await created.results()
        answers[service] = {"lines": lines, "result": result.result}
    return answers
