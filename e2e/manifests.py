"""The manifests that scenarios apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from e2e.operator_process import Json

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart" / "deployment.yaml"
STORAGE = {"storage": {"size": "256Mi"}}

CODE = """\
import asyncio

from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

VERSION = "{version}"


class Work(Workflow):
    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(float(ev.get("pause", 0.05)))
        return StopEvent(result=f"{{VERSION}} {{ev.get('n', '')}}")


flow = Work()
"""


def quickstart(**spec: Any) -> list[Json]:
    """Code and Deployment of ``examples/quickstart``, with other fields of the spec."""
    code, deployment = yaml.safe_load_all(QUICKSTART.read_text())
    deployment["spec"].update(spec)
    return [code, deployment]


def code(name: str, version: str) -> Json:
    """A ConfigMap with a workflow whose results begin with ``version``."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"workflow.py": CODE.format(version=version)},
    }


def managed_redis() -> Json:
    """Queue and state store that the operator runs."""
    return {
        "controlPlane": {"stateStore": {"managed": STORAGE}},
        "messageQueue": {"type": "redis", "managed": STORAGE, "redis": {"exclusiveMode": True}},
    }


def deployment(name: str, **spec: Any) -> Json:
    """A Deployment with one service ``work``."""
    work = {
        "name": "work", "source": {"configMap": {"name": "code"}}, "path": "workflow:flow",
        "replicas": 2,
    }  # fmt: skip
    return {
        "apiVersion": "llamadeploy.io/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"defaultService": "work", "services": [work], **spec},
    }
