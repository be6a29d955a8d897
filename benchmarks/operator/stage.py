"""The cluster that the operator is measured in: real API server, simulated nodes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_seconds
from e2e.cluster.api import TABLE, Api
from e2e.cluster.audit import AuditLog
from e2e.cluster.build import cluster_binary, kwok_binary
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.process import Process
from e2e.cluster.simulated_nodes import SimulatedNodes
from e2e.operator_process import GROUP, SYSTEM, OperatorProcess, create_once, grant

ROOT = Path(__file__).parents[2]
CRDS = tuple(sorted((ROOT / "crds").glob("*.yaml")))
USER = "operator"
"""The operator's user in the audit log; it has the rights of the chart and no others."""
NODES = 10
PER_NAMESPACE = 10
"""As in KubeRay's benchmark: 100 namespaces with 10 resources each."""
SERVICES = ("ingest", "answer")
GOGC = "400"
"""Of the cluster's programs, unless the environment says another."""
CREATORS = 8
"""Connections that create the resources."""


@dataclass
class Stage:
    """What runs, and how to ask it."""

    control_plane: ControlPlane
    nodes: SimulatedNodes
    api: Api
    audit: AuditLog

    def operator(self) -> OperatorProcess:
        """An operator, not yet started; it looks again at what is steady once an hour."""
        return OperatorProcess(
            self.control_plane.kubeconfig_for(USER),
            self.control_plane.folder,
            "--resync-seconds", "3600",
        )  # fmt: skip

    def cpu(self, operator: OperatorProcess) -> dict[str, float]:
        """CPU seconds of each process until now."""
        processes: dict[str, Process] = {
            "operator": operator,
            "kube-apiserver": self.control_plane.api_server,
            "etcd": self.control_plane.etcd,
            "kube-controller-manager": self.control_plane.controllers,
            "kube-scheduler": self.nodes.scheduler,
            "kwok": self.nodes.kwok,
        }
        return {name: cpu_seconds(each.pid) for name, each in processes.items()}

    def ready(self) -> int:
        """Deployments that are Ready, by the table that kubectl shows."""
        path, query = f"{GROUP}/llamadeployments", {"includeObject": "None"}
        table = self.api.request("GET", path, params=query, accept=TABLE)
        names = [column["name"] for column in table["columnDefinitions"]]
        ready = names.index("Ready")
        return sum(row["cells"][ready] == "True" for row in table["rows"])

    def deployments(self) -> list[dict[str, Any]]:
        found = self.api.request("GET", f"{GROUP}/llamadeployments")["items"]
        return list(found)


@contextmanager
def stage() -> Iterator[Stage]:
    """A cluster with our definitions and the operator's rights; all of it ends with the block.

    Raises:
        BuildUnavailableError: the cluster's programs cannot be built here.
        AssertionError: it does not start.
    """
    binary, kwok = cluster_binary(print), kwok_binary(print)
    # With small heaps Go collects garbage all the time, and here everything shares the cores.
    os.environ.setdefault("GOGC", GOGC)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        control_plane = ControlPlane(binary, Path(folder), audit=True)
        try:
            control_plane.start(CRDS)
            nodes = SimulatedNodes(control_plane, kwok, NODES)
            try:
                nodes.start()
                api = Api(control_plane.kubeconfig)
                create_once(api, "/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
                grant(api, USER)
                assert control_plane.audit is not None
                yield Stage(control_plane, nodes, api, control_plane.audit)
                api.close()
            finally:
                nodes.stop()
        finally:
            control_plane.stop()


def namespaces(count: int) -> list[str]:
    """Those that ``count`` Deployments need."""
    return [f"bench-{number:03d}" for number in range(-(-count // PER_NAMESPACE))]


def create_namespaces(api: Api, count: int) -> None:
    """With the ConfigMap that holds the workflows' code."""
    code = {"metadata": {"name": "code"}, "data": {"workflow.py": "ingest = answer = None\n"}}
    for name in namespaces(count):
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        api.request("POST", f"/api/v1/namespaces/{name}/configmaps", code)


def create_deployments(api: Api, count: int) -> None:
    """As fast as the API server takes them."""
    places = namespaces(count)

    def create(number: int) -> None:
        namespace = places[number // PER_NAMESPACE]
        path = f"{GROUP}/namespaces/{namespace}/llamadeployments"
        api.request("POST", path, deployment(f"d{number:04d}"))

    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(create, range(count)))


def deployment(name: str) -> dict[str, Any]:
    """Two services with a worker each, and the defaults: simple queue, store in memory."""
    services = [
        {
            "name": service,
            "source": {"configMap": {"name": "code"}},
            "path": f"workflow:{service}",
            "replicas": 1,
        }
        for service in SERVICES
    ]
    return {
        "apiVersion": "llamadeploy.io/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"defaultService": SERVICES[0], "services": services},
    }
