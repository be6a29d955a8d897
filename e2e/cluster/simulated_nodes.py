"""Nodes without machines: the scheduler and kwok make pods Running and ready, and run nothing.

Probes, images, logs and commands do not exist here: what a pod does needs a real node. Pods of a
Job end successfully.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.cluster.api import MERGE_PATCH, Api, wait_for
from e2e.cluster.control_plane import CONTROLLERS_USER, ControlPlane
from e2e.cluster.process import Process
from e2e.cluster.scheduler import scheduler

LABEL = "llamadeploy.io/simulated"
CAPACITY = {"cpu": "100k", "memory": "100Ti", "pods": "1000000", "ephemeral-storage": "100Ti"}


class SimulatedNodes:
    """The two processes, and the nodes.

    Args:
        kwok: the program.
        count: of nodes, each of them as large as anything.
    """

    def __init__(self, control_plane: ControlPlane, kwok: Path, count: int = 1) -> None:
        self._control_plane = control_plane
        self._names = [f"simulated-{number}" for number in range(count)]
        folder = control_plane.folder
        kubeconfig = control_plane.kubeconfig_for(CONTROLLERS_USER)
        self.scheduler = scheduler(control_plane)
        command = [
            str(kwok), f"--kubeconfig={kubeconfig}", "--node-ip=127.0.0.1", "--cidr=10.32.0.1/12",
            f"--manage-nodes-with-label-selector={LABEL}=true", "--node-lease-duration-seconds=40",
        ]  # fmt: skip
        # HOME: it reads a configuration from there.
        self.kwok = Process("kwok", command, folder, {"HOME": str(folder)})

    def start(self) -> None:
        """Start them and wait until the nodes are ready."""
        api = Api(self._control_plane.kubeconfig)
        known = {item["metadata"]["name"] for item in api.request("GET", "/api/v1/nodes")["items"]}
        for name in self._names:
            if name in known:  # from an earlier start
                continue
            api.request("POST", "/api/v1/nodes", _node(name))
            # Admission marks a new node as not ready, and a controller that does not run here
            # would take the mark away.
            untainted = {"spec": {"taints": None}}
            api.request("PATCH", f"/api/v1/nodes/{name}", untainted, content_type=MERGE_PATCH)
        self.scheduler.start()
        self.kwok.start()
        try:
            for name in self._names:
                wait_for(lambda name=name: self._ready(api, name), 60, f"{name} is ready")  # type: ignore[misc]
        except AssertionError as error:
            self.stop()
            tails = f"{self.kwok.tail()}\n{self.scheduler.tail()}"
            raise AssertionError(f"{error}\n{tails}") from None
        finally:
            api.close()

    def stop(self) -> None:
        """End them; pods and nodes stay as they are. Idempotent."""
        self.kwok.stop()
        self.scheduler.stop()

    def _ready(self, api: Api, name: str) -> bool:
        assert self.kwok.running, "kwok has ended"
        assert self.scheduler.running, "the scheduler has ended"
        node = api.request("GET", f"/api/v1/nodes/{name}")
        conditions = node.get("status", {}).get("conditions", [])
        ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
        return ready


def _node(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {LABEL: "true", "kubernetes.io/hostname": name}},
        "status": {"capacity": CAPACITY, "allocatable": CAPACITY},
    }
