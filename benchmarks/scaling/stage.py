"""What autoscaling is measured in: API server, operator, control plane, Redis, workers - all real.

Pods are processes of this machine (``e2e.cluster.process_node``): what a node adds, a scheduler,
images and containers, is not in the figures.
"""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

ROOT = Path(__file__).parents[2]
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
    """

    control_plane: ControlPlane
    api: Api
    space: Namespace
    node: ProcessNode
    operator: OperatorProcess
    token: str

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


def wait(check: Callable[[], Any], what: str, seconds: float = 120.0) -> float:
    """Until it is true. Gives the moment on the monotonic clock."""
    eventually(check, what, seconds, 0.05)
    return time.monotonic()


@contextmanager
def stage(autoscaling: Json) -> Iterator[Stage]:
    """A Deployment with one service that is scaled, ready to take tasks; all ends with the block.

    Args:
        autoscaling: of the service.
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
            with _deployed(control_plane, redis.uri, folder, autoscaling) as found:
                yield found
        finally:
            control_plane.stop()
            redis.stop()


@contextmanager
def _deployed(
    control_plane: ControlPlane, broker: str, folder: Path, autoscaling: Json
) -> Iterator[Stage]:
    api = Api(control_plane.kubeconfig)
    for namespace in (SYSTEM, NAMESPACE):
        create_once(api, "/api/v1/namespaces", {"metadata": {"name": namespace}})
    grant(api, "operator")
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
        space.create("ldep", _manifest(broker, autoscaling))
        eventually(lambda: _available(space, "d-control-plane"), "the control plane works", 60)
        eventually(lambda: _available(space, "d-orchestrator"), "the orchestrator works", 60)
        token = space.get("secret", "d-internal")["data"]["api-token"]
        yield Stage(control_plane, api, space, node, operator, _decoded(token))
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
