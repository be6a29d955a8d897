"""A node that runs the pods of one namespace as processes of this machine, from start to end.

Controllers make and remove pods as on any cluster; this node binds them, starts their command with
the environment that the operator wrote, says that they are ready once they are, and ends them when
they are deleted: SIGTERM, and the object goes when the process has. Images, volumes, names of
Services and isolation do not exist here: workflows come from a folder, the control plane has a
fixed port of the loopback interface. One control plane per node.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from e2e.cluster.api import MERGE_PATCH, Api, ApiRefusedError
from e2e.cluster.process import Process, free_port

ROOT = Path(__file__).parents[2]
LOOK_SECONDS = 0.1


@dataclass
class _Pod:
    process: Process
    probe: str
    ready: bool = False
    ending: bool = False


@dataclass
class ProcessNode:
    """See the module.

    Args:
        kubeconfig: an administrator's.
        namespace: whose pods it runs.
        source: folder with the workflows' code.
        folder: for logs.

    Attributes:
        control_plane_url: where the control plane of the namespace will answer.
    """

    kubeconfig: Path
    namespace: str
    source: Path
    folder: Path
    name: str = field(default_factory=lambda: f"node-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self._port = free_port()
        self.control_plane_url = f"http://127.0.0.1:{self._port}"
        self._api = Api(self.kubeconfig)
        self._pods: dict[str, _Pod] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Register, and run what comes."""
        self._api.request("POST", "/api/v1/nodes", {"metadata": {"name": self.name}})
        self._thread.start()

    def stop(self) -> None:
        """End its processes; the node goes, too."""
        self._stopping.set()
        self._thread.join(30)
        for pod in self._pods.values():
            pod.process.stop()
        self._api.request("DELETE", f"/api/v1/nodes/{self.name}")
        self._api.close()

    @property
    def processes(self) -> dict[str, Process]:
        """By the names of their pods."""
        return {name: pod.process for name, pod in dict(self._pods).items()}

    def _loop(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._look()
            except httpx.HTTPError:
                continue  # the API server is busy
            except BaseException as error:
                self.error = error
                raise

    def _look(self) -> None:
        found = self._api.request("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        for body in found:
            name = body["metadata"]["name"]
            pod = self._pods.get(name)
            if "deletionTimestamp" in body["metadata"]:
                self._end(name, pod)
            elif pod is None and "nodeName" not in body["spec"]:
                self._run(body)
            elif pod is not None and not pod.ready and _answers(pod.probe):
                pod.ready = True
                self._say(name, "Running", ready=True)

    def _run(self, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
        binding = {"metadata": {"name": name}, "target": target}
        self._api.request("POST", f"{self._path(name)}/binding", binding)
        (container,) = body["spec"]["containers"]
        kind = container["command"][-1]
        metrics = free_port()
        options: list[str] = []
        if kind != "worker":
            options = ["--host", "127.0.0.1", "--metrics-port", str(metrics)]
        if kind == "control-plane":
            options += ["--port", str(self._port), "--queue-port", str(free_port())]
        environment = self._environment(container, name) | {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT / "runtime"),
            "LLAMADEPLOY_SOURCE_DIR": str(self.source),
            "LLAMADEPLOY_CONTROL_PLANE_URL": self.control_plane_url,
            "LLAMADEPLOY_HEALTH_HOST": "127.0.0.1",
            "LLAMADEPLOY_HEALTH_PORT": str(metrics),
        }
        command = [sys.executable, "-P", "-m", "llamadeploy", kind, *options]
        process = Process(name, command, self.folder, environment)
        process.start()
        self._pods[name] = _Pod(process, f"http://127.0.0.1:{metrics}/readyz")

    def _end(self, name: str, pod: _Pod | None) -> None:
        if pod is not None and pod.process.running:
            if not pod.ending:
                pod.ending = True
                os.kill(pod.process.pid, 15)
            return
        self._pods.pop(name, None)
        options = {"gracePeriodSeconds": 0}
        try:
            self._api.request("DELETE", self._path(name), options)
        except ApiRefusedError as error:
            if error.status != 404:
                raise

    def _say(self, name: str, phase: str, *, ready: bool) -> None:
        condition = {"type": "Ready", "status": str(ready)}
        status = {"phase": phase, "conditions": [condition]}
        path = f"{self._path(name)}/status"
        try:
            self._api.request("PATCH", path, {"status": status}, content_type=MERGE_PATCH)
        except ApiRefusedError as error:
            if error.status != 404:
                raise

    def _environment(self, container: dict[str, Any], pod: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for item in container["env"]:
            reference = item.get("valueFrom", {})
            if "secretKeyRef" in reference:
                found[item["name"]] = self._secret(**reference["secretKeyRef"])
            elif reference.get("fieldRef", {}).get("fieldPath") == "metadata.name":
                found[item["name"]] = pod
            elif "value" in item:
                found[item["name"]] = item["value"]
        return found

    def _secret(self, name: str, key: str, **_: Any) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/secrets/{name}"
        return base64.b64decode(self._api.request("GET", path)["data"][key]).decode()

    def _path(self, pod: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{pod}"


def _answers(probe: str) -> bool:
    try:
        return httpx.get(probe, trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
