"""Workers that follow the work, on real pods: none of it is lost, none done for nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from e2e.client_pod import ClientPod
from e2e.manifests import STORAGE, deployment, managed_redis
from e2e.operator_process import Json, eventually
from e2e.providers.base import Provider
from e2e.space import Space

Client = Callable[[str], ClientPod]

CODE = """\
import asyncio

from workflows import Workflow, step
from workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


class Work(Workflow):
    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(float(ev.get("pause", 0.05)))
        return StopEvent(result=str(ev.get("n", "")))


class Human(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="and?")

    @step
    async def heard(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


flow = Work(timeout=None)
human = Human(timeout=None)
"""
AUTOSCALING = {
    "minReplicas": 0,
    "maxReplicas": 5,
    "targetBacklog": 8,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
}
CAPACITY = 300.0
"""Seconds for pods to come or go, on a busy machine."""


def apply(space: Space, *, path: str = "workflow:flow", **spec: Any) -> None:
    """The Deployment ``shop`` with one service that scales."""
    code = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"},
        "data": {"workflow.py": CODE},
    }  # fmt: skip
    found = deployment("shop", **spec)
    (service,) = found["spec"]["services"]
    del service["replicas"]
    service |= {"autoscaling": AUTOSCALING, "path": path}
    space.apply(code, found)
    space.wait_ready("shop", seconds=CAPACITY)


def asked(space: Space) -> int:
    return int(space.get("wfs", "shop-work")["spec"]["replicas"])


def at_zero(space: Space) -> None:
    eventually(lambda: asked(space) == 0, "no worker is asked for", CAPACITY, 0.2)
    eventually(lambda: not space.pods(component="worker"), "no worker is there", CAPACITY, 0.2)


class Crowd:
    """Tasks that a thread waits for: ``Crowd(user, "200:0.3", "20:20")``."""

    def __init__(self, user: ClientPod, *groups: str) -> None:
        self._text = ""
        self._done: Any = None
        command = user.command("python", "/e2e/crowd.py", user.url, "shop", "work", *groups)

        def run() -> None:
            self._done = user.space.run("client", *command, heard=self._hear, seconds=400)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def _hear(self, text: str) -> None:
        self._text += text

    def created(self) -> None:
        """Wait until all are created."""
        eventually(lambda: '{"created"' in self._text or self._done, "all are created", 150)

    def report(self) -> Json:
        """Wait for the end. Raises AssertionError: a task is lost, or gave the wrong result."""
        self._thread.join(420)
        assert self._done is not None and self._done.code == 0, f"the crowd: {self._done}"
        found: Json = json.loads(self._done.stdout.splitlines()[-1])
        assert not found["lost"] and not found["wrong"], found
        assert found["right"] == found["created"]
        return found


def follows_the_work(space: Space, user: ClientPod) -> None:
    """200 short and 20 long tasks; 1 -> 5 -> 0 -> 3; each runs once and none is lost."""
    crowd = Crowd(user, "200:0.3", "20:20")
    eventually(lambda: asked(space) == 5, "five are asked for", CAPACITY, 0.1)
    report = crowd.report()
    assert report["created"] == 220
    assert report["attempts"] == {"1": 220}
    at_zero(space)
    seen = set()
    crowd = Crowd(user, "24:8")
    crowd.created()
    eventually(lambda: seen.add(asked(space)) or 3 in seen, "three are asked for", CAPACITY, 0.1)
    report = crowd.report()
    assert report["attempts"] == {"1": 24}
    assert max(seen) == 3
    at_zero(space)


def test_workers_follow_the_work_on_redis(space: Space, client: Client) -> None:
    apply(space, **managed_redis())
    follows_the_work(space, client("shop"))


@pytest.mark.full
def test_workers_follow_the_work_on_rabbitmq(
    space: Space, client: Client, broker_values: Json
) -> None:
    store = {"stateStore": {"managed": STORAGE}}
    apply(space, controlPlane=store, messageQueue={"type": "rabbitmq", "managed": STORAGE})
    follows_the_work(space, client("shop"))


@pytest.mark.full
def test_a_worker_is_killed_while_others_leave(
    space: Space, client: Client, provider: Provider
) -> None:
    """Its tasks run again elsewhere; those of the workers that leave do not."""
    apply(space, **managed_redis())
    user = client("shop")
    crowd = Crowd(user, "60:1", "4:40")
    eventually(lambda: asked(space) == 5, "five are asked for", CAPACITY, 0.1)
    eventually(lambda: asked(space) < 5, "some may go", CAPACITY, 0.1)
    victim = next(
        pod for pod in space.pods(component="worker")
        if pod["status"].get("containerStatuses", [{}])[0].get("ready")
    )  # fmt: skip
    try:
        provider.kill(victim["status"]["containerStatuses"][0]["containerID"])
    except NotImplementedError as error:
        pytest.skip(str(error))
    report = crowd.report()
    assert set(report["attempts"]) <= {"1", "2"}
    at_zero(space)


@pytest.mark.full
def test_twenty_people_answer_across_scaling_and_a_kill(
    space: Space, client: Client, provider: Provider
) -> None:
    """Asked on one worker and more, answered after zero; a worker is killed meanwhile."""
    apply(space, path="workflow:human", **managed_redis())
    user = client("shop")
    tasks = user.python("humans.py", "work", "ask", "10")
    eventually(lambda: asked(space) >= 1, "a worker is there", CAPACITY)
    space.patch("wfs", "shop-work", {"spec": {"replicas": 3}}, "scale")
    tasks += user.python("humans.py", "work", "ask", "5")
    running = [pod for pod in space.pods(component="worker") if pod["status"]["phase"] == "Running"]
    try:
        provider.kill(running[0]["status"]["containerStatuses"][0]["containerID"])
    except NotImplementedError as error:
        pytest.skip(str(error))
    tasks += user.python("humans.py", "work", "ask", "5")
    at_zero(space)
    found = user.python("humans.py", "work", "answer", *tasks)
    assert found == {task: f"answer to {task}" for task in tasks}
    assert len(found) == 20
