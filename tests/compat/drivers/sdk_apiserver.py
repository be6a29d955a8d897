"""The `apiserver` half of the 0.8.1 SDK, call by call."""

from __future__ import annotations

import json
from typing import Any

import httpx
from llama_deploy.types import TaskDefinition
from llama_index.core.workflow.events import HumanResponseEvent
from pydantic import ValidationError
from steps import Steps, until

step = Steps()
run = step.run


def task(service: str | None = None, session: str | None = None, **kwargs: Any) -> TaskDefinition:
    return TaskDefinition(input=json.dumps(kwargs), service_id=service, session_id=session)


@step
def status(client: Any, deployment: str) -> Any:
    return (yield client.apiserver.status())


@step
def deployment_get(client: Any, deployment: str) -> Any:
    return (yield client.apiserver.deployments.get(deployment)).id


@step
def deployment_get_unknown(client: Any, deployment: str) -> Any:
    try:
        yield client.apiserver.deployments.get("nobody")
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, error.response.json()]


@step
def deployments_list(client: Any, deployment: str) -> Any:
    """The SDK builds a model with `id={"name": ...}`: it fails on 0.8.1's own reply."""
    try:
        return (yield client.apiserver.deployments.list())
    except ValidationError as error:
        return [item["input"] for item in error.errors()]


@step
def run_default_service(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    return (yield found.tasks.run(task(message="default")))


@step
def run_named_service(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    return (yield found.tasks.run(task("llama_index_echo", message="named")))


@step
def run_unknown_service(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    try:
        yield found.tasks.run(task("nobody"))
    except httpx.HTTPStatusError as error:
        return error.response.status_code


@step
def run_failing_service(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    return (yield found.tasks.run(task("fail")))


@step
def run_same_definition_twice(client: Any, deployment: str) -> Any:
    """Clients reuse a TaskDefinition object, and with it its task_id."""
    found = yield client.apiserver.deployments.get(deployment)
    definition = task("echo", message="again")
    first = yield found.tasks.run(definition)
    second = yield found.tasks.run(definition)
    return [first, second]


@step
def context_survives_in_session(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    session = yield found.sessions.create()
    results = []
    for _ in range(3):
        results.append((yield found.tasks.run(task("counter", session.session_id))))
    results.append((yield found.tasks.run(task("counter"))))
    return results


@step
def run_leaves_no_session(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    before = yield found.sessions.list()
    yield found.tasks.run(task("echo"))
    after = yield found.sessions.list()
    return len(after) - len(before)


@step
def create_and_results(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    created = yield found.tasks.create(task("echo", message="later"))
    result = yield from until(created.results, "results")
    return {"ids": [created.id, created.session_id, created.deployment_id], "result": result}


@step
def results_before_the_end(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    created = yield found.tasks.create(task("slow", seconds=2))
    try:
        early = yield created.results()
    except ValidationError:
        early = "not ready"
    result = yield from until(created.results, "results")
    return [early, result.result]


@step
def failed_task_results(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    created = yield found.tasks.create(task("fail"))
    return (yield from until(created.results, "results"))


@step
def tasks_list(client: Any, deployment: str) -> Any:
    """The SDK reads attributes of plain dictionaries: it fails on 0.8.1's own reply."""
    found = yield client.apiserver.deployments.get(deployment)
    yield found.tasks.create(task("echo"))
    try:
        return (yield found.tasks.list())
    except AttributeError as error:
        return str(error)


@step
def events(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    created = yield found.tasks.create(task("streamer", n=3))
    return (yield created.events())


@step
def events_replay(client: Any, deployment: str) -> Any:
    """A second reader after the end sees the stream from its start."""
    found = yield client.apiserver.deployments.get(deployment)
    created = yield found.tasks.create(task("streamer", n=2))
    first = yield created.events()
    second = yield created.events()
    return [first, second]


@step
def sessions(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    created = yield found.sessions.create()
    listed = yield found.sessions.list()
    yield found.sessions.delete(created.session_id)
    again = yield found.sessions.delete(created.session_id)
    left = yield found.sessions.list()
    return {"created": created, "listed": listed, "deleted_again": again, "left": left}


@step
def answer_to_a_step(client: Any, deployment: str) -> Any:
    found = yield client.apiserver.deployments.get(deployment)
    created = yield found.tasks.create(task("ask"))
    echoed = yield created.send_event(HumanResponseEvent(response="42"), "ask")
    result = yield from until(created.results, "results")
    return {"echoed": echoed, "result": result.result}
