"""A Deployment that scales, without a node: API server, operator, control plane, Redis, workers are
all real.

Pods are processes of this machine (``e2e.cluster.process_node``): what a node adds, a scheduler,
images and containers, is missing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.brokers.redis import RedisServer

from e2e.cluster.api import Api
from e2e.cluster.build import cluster_binary
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.process_node import ProcessNode
from e2e.operator_process import (
    SYSTEM,
    Json,
    Namespace,
    OperatorProcess,
    create_once,
    eventually,
    grant,
)

ROOT = Path(__file__).parents[1]
CRDS = tuple(sorted((ROOT / "crds").glob("*.yaml")))
NAMESPACE = "scaling"
SERVICE = "work"
WFS, WORKERS = "d-work", "d-work-worker"
CODE = """\
import asyncio

from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent


class Work(Workflow):
    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(float(ev.get("pause", 0)))
        return StopEvent(result=str(ev.get("n", "")))


flow = Work(timeout=None)
"""


@dataclass
class Stage:
    """What runs.

    Attributes:
        token: of the Deployment's control plane.
        folder: for logs.
        broker: message queue and state store.
    """

    control_plane: ControlPlane
    api: Api
    space: Namespace
    node: ProcessNode
    operator: OperatorProcess
    token: str
    folder: Path
    broker: RedisServer

    @property
    def url(self) -> str:
        """Of the Deployment's control plane."""
        return self.node.control_plane_url

    def asked(self) -> int:
        """Replicas that the WorkflowService asks for."""
        return int(self.space.get("wfs", WFS)["spec"]["replicas"])

    def ready(self) -> int:
        """Workers that are ready."""
        return int(self.space.get("deployment", WORKERS)["status"].get("readyReplicas", 0))

    def pods(self) -> int:
        """Pods of workers, those on their way out included."""
        names = self.space.names("pod")
        return sum(name.startswith(f"{WORKERS}-") for name in names)


class Client:
    """Tasks by HTTP."""

    def __init__(self, found: Stage) -> None:
        self._http = httpx.AsyncClient(
            base_url=found.url,
            headers={"Authorization": f"Bearer {found.token}"},
            timeout=120,
            trust_env=False,
            limits=httpx.Limits(max_connections=64),
        )

    async def create(self, **values: Any) -> tuple[str, str]:
        """A task and its session."""
        body = {"input": json.dumps(values), "service_id": SERVICE}
        answer = await self._http.post("/deployments/d/tasks/create", json=body)
        answer.raise_for_status()
        made = answer.json()
        return made["task_id"], made["session_id"]

    async def result(self, task: str, session: str) -> str:
        """Its result, once it has one."""
        path = f"/deployments/d/tasks/{task}/results"
        while True:
            answer = await self._http.get(path, params={"session_id": session, "wait": 30})
            if answer.status_code == 503:  # store or broker away, for now
                await asyncio.sleep(0.5)
                continue
            answer.raise_for_status()
            found = answer.json()
            if found is not None and found.get("result") is not None:
                return str(found["result"])

    async def finished_at(self, task: str) -> float:
        """When it ended, in seconds since 1970."""
        answer = await self._http.get(f"/deployments/d/tasks/{task}")
        answer.raise_for_status()
        return float(answer.json()["finished_at"])

    async def aclose(self) -> None:
        await self._http.aclose()


def wait(check: Callable[[], Any], what: str, seconds: float = 120.0) -> float:
    """Until it is true. Gives the moment on the monotonic clock."""
    eventually(check, what, seconds, 0.05)
    return time.monotonic()


@contextmanager
def stage(autoscaling: Json, prepare: Callable[[Api], None] = lambda api: None) -> Iterator[Stage]:
    """A Deployment with one service that is scaled, ready to take tasks; all ends with the block.

    Args:
        autoscaling: of the service.
        prepare: what the cluster gets before the operator starts.
    """
    binary = cluster_binary(print)
    with tempfile.TemporaryDirectory(prefix="scaling-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in ("cluster", "redis", "source"):
            (folder / part).mkdir()
        (folder / "source" / "workflow.py").write_text(CODE)
        redis = RedisServer(folder / "redis", "--appendonly", "yes")
        control_plane = ControlPlane(binary, folder / "cluster")
        redis.start()
        try:
            control_plane.start(CRDS)
            with _deployed(control_plane, redis, folder, autoscaling, prepare) as found:
                yield found
        finally:
            control_plane.stop()
            redis.stop()


@contextmanager
def _deployed(
    control_plane: ControlPlane,
    broker: RedisServer,
    folder: Path,
    autoscaling: Json,
    prepare: Callable[[Api], None],
) -> Iterator[Stage]:
    api = Api(control_plane.kubeconfig)
    for namespace in (SYSTEM, NAMESPACE):
        create_once(api, "/api/v1/namespaces", {"metadata": {"name": namespace}})
    grant(api, "operator")
    prepare(api)
    space = Namespace(api, NAMESPACE)
    space.create("configmap", {"metadata": {"name": "code"}, "data": {"workflow.py": CODE}})
    node = ProcessNode(control_plane.kubeconfig, NAMESPACE, folder / "source", folder)
    operator = OperatorProcess(
        control_plane.kubeconfig_for("operator"), folder,
        "--namespace", NAMESPACE, "--control-plane-url-template", node.control_plane_url,
    )  # fmt: skip
    node.start()
    operator.start()
    try:
        operator.wait_working()
        space.create("ldep", _manifest(broker.uri, autoscaling))
        eventually(lambda: _available(space, "d-control-plane"), "the control plane works", 60)
        eventually(lambda: _available(space, "d-orchestrator"), "the orchestrator works", 60)
        token = space.get("secret", "d-internal")["data"]["api-token"]
        known = f"{node.control_plane_url}/services"
        headers = {"Authorization": f"Bearer {_decoded(token)}"}
        eventually(
            lambda: SERVICE in httpx.get(known, headers=headers, trust_env=False).text,
            "the control plane knows the service", 60,
        )  # fmt: skip
        yield Stage(control_plane, api, space, node, operator, _decoded(token), folder, broker)
        if node.error is not None:
            raise node.error
        assert operator.running, operator.tail()
    finally:
        operator.stop()
        node.stop()
        api.close()


def _manifest(broker: str, autoscaling: Json) -> Json:
    service = {
        "name": SERVICE, "source": {"configMap": {"name": "code"}}, "path": "workflow:flow",
        "autoscaling": autoscaling,
    }  # fmt: skip
    return {
        "apiVersion": "llamadeploy.io/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "defaultService": SERVICE,
            "controlPlane": {"replicas": 1, "stateStore": {"uri": broker}},
            "orchestrator": {"replicas": 1},
            "messageQueue": {"type": "redis", "redis": {"url": broker, "exclusiveMode": True}},
            "services": [service],
        },
    }


def _available(space: Namespace, name: str) -> bool:
    found = space.find("deployment", name)
    return found is not None and found.get("status", {}).get("availableReplicas", 0) >= 1


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
