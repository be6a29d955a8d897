"""A Deployment whose only service scales, and crowds of tasks for it."""

from __future__ import annotations

import json
import threading
from typing import Any

from e2e.client_pod import ClientPod
from e2e.manifests import deployment
from e2e.operator_process import Json, eventually
from e2e.space import Space

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
