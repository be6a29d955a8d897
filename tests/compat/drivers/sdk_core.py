"""The `core` half of the 0.8.1 SDK, call by call."""

from __future__ import annotations

import json
from typing import Any

import httpx
from llama_deploy.types import EventDefinition, ServiceDefinition, TaskDefinition
from llama_index.core.workflow.context_serializers import JsonSerializer
from llama_index.core.workflow.events import HumanResponseEvent
from steps import Steps, until

step = Steps()
run = step.run


@step
def session_lifecycle(client: Any, deployment: str) -> Any:
    created = yield client.core.sessions.create()
    found = yield client.core.sessions.get(created.id)
    listed = yield client.core.sessions.list()
    yield client.core.sessions.delete(created.id)
    yield client.core.sessions.delete(created.id)
    left = yield client.core.sessions.list()
    return {
        "created": created.id,
        "found": found.id,
        "listed": [each.id for each in listed],
        "left": [each.id for each in left],
    }


@step
def session_get_unknown(client: Any, deployment: str) -> Any:
    try:
        yield client.core.sessions.get("nobody")
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, error.response.json()]


@step
def session_get_or_create(client: Any, deployment: str) -> Any:
    created = yield client.core.sessions.create()
    same = yield client.core.sessions.get_or_create(created.id)
    other = yield client.core.sessions.get_or_create("nobody")
    return [created.id, same.id, other.id]


@step
def session_run(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    return (yield session.run("echo", message="core"))


@step
def session_run_failing(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    return (yield session.run("fail"))


@step
def run_nowait_and_result(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    task_id = yield session.run_nowait("slow", seconds=2)
    early = yield session.get_task_result(task_id)
    result = yield from until(lambda: session.get_task_result(task_id), "get_task_result")
    return {"task_id": task_id, "early": early, "result": result}


@step
def create_task_keeps_the_client_id(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    definition = TaskDefinition(input=json.dumps({"message": "mine"}), service_id="echo")
    task_id = yield session.create_task(definition)
    listed = yield session.get_tasks()
    result = yield from until(lambda: session.get_task_result(task_id), "get_task_result")
    return {"sent": definition.task_id, "got": task_id, "session": session.id,
            "listed": listed, "result": result.result}  # fmt: skip


@step
def result_of_unknown_task(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    try:
        return (yield session.get_task_result("nobody"))
    except httpx.HTTPStatusError as error:
        return error.response.status_code


@step
def result_stream(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    task_id = yield session.run_nowait("streamer", n=3)
    return (yield session.get_task_result_stream(task_id))


@step
def context_survives_in_session(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    results = []
    for _ in range(3):
        results.append((yield session.run("counter")))
    return results


@step
def failed_run_keeps_its_session(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    first = yield session.run("counter")
    failed = yield session.run("fail")
    second = yield session.run("counter")
    return [first, failed, second]


@step
def send_event(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    task_id = yield session.run_nowait("ask")
    yield session.send_event("ask", task_id, HumanResponseEvent(response="7"))
    result = yield from until(lambda: session.get_task_result(task_id), "get_task_result")
    return result.result


@step
def send_event_def(client: Any, deployment: str) -> Any:
    session = yield client.core.sessions.create()
    task_id = yield session.run_nowait("ask")
    text = JsonSerializer().serialize(HumanResponseEvent(response="8"))
    yield session.send_event_def(task_id, EventDefinition(service_id="ask", event_obj_str=text))
    result = yield from until(lambda: session.get_task_result(task_id), "get_task_result")
    return result.result


@step
async def answer_after_the_question(client: Any, deployment: str) -> Any:
    session = await client.core.sessions.create()
    task_id = await session.run_nowait("wait")
    lines = []
    async for line in session.get_task_result_stream(task_id):
        lines.append(line)
        if "prefix" in str(line):
            await session.send_event("wait", task_id, HumanResponseEvent(response="yes"))
    result = await session.get_task_result(task_id)
    return {"lines": lines, "result": result.result}


@step
def services(client: Any, deployment: str) -> Any:
    before = yield client.core.services.list()
    definition = ServiceDefinition(service_name="ghost", description="Only registered")
    registered = yield client.core.services.register(definition)
    during = yield client.core.services.list()
    yield client.core.services.deregister("ghost")
    yield client.core.services.deregister("ghost")
    after = yield client.core.services.list()
    return {
        "registered": registered.id,
        "before": [each.id for each in before],
        "during": [each.id for each in during],
        "after": [each.id for each in after],
    }
