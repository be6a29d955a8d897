"""The operator as a process, against a real API server, with no right beyond ``rbac.py``."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from e2e.cluster.api import Api
from e2e.cluster.fault_proxy import FaultProxy
from e2e.control_plane_process import ControlPlaneProcess
from e2e.operator_process import SYSTEM, Namespace, OperatorProcess, create_once, grant
from llamadeploy_operator import names


@pytest.fixture(scope="session")
def system(api_server: Any) -> str:
    """The operator's namespace, with its rights."""
    create_once(api_server.api, "/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
    grant(api_server.api, "operator")
    return SYSTEM


Start = Callable[..., OperatorProcess]

POD_SPEC = {
    "replicas": 0,
    "selector": {"matchLabels": {"a": "b"}},
    "template": {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "a", "image": "b"}]},
    },
}


@contextmanager
def starting(api_server: Any, folder: Path) -> Iterator[Start]:
    """Start operators; all of them end with the block."""
    started: list[OperatorProcess] = []

    def start(*arguments: str, kubeconfig: Path | None = None) -> OperatorProcess:
        if "--lease-name" not in arguments:
            arguments += ("--lease-name", f"lease-{uuid.uuid4().hex[:8]}")
        config = kubeconfig or api_server.kubeconfig_for("operator")
        process = OperatorProcess(config, folder, *arguments)
        process.start()
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.stop()


@pytest.fixture
def start_operator(api_server: Any, system: str, tmp_path: Path) -> Iterator[Start]:
    """Start an operator: ``start_operator("--flag", ..., kubeconfig=None)``. Its lease is its own
    unless ``--lease-name`` is given."""
    with starting(api_server, tmp_path) as start:
        yield start


@pytest.fixture
def space(api: Api, namespace: str) -> Namespace:
    """A namespace with a workflow's code in it."""
    space = Namespace(api, namespace)
    space.create("configmap", {"metadata": {"name": "code"}, "data": {"workflow.py": "flow = 1"}})
    return space


@dataclass(frozen=True)
class Foreign:
    """Somebody else's objects that have the names of the children of a Deployment ``f``."""

    space: Namespace

    #: Of this spec.
    SPEC: ClassVar[dict[str, Any]] = {
        "messageQueue": {
            "type": "redis", "redis": {"exclusiveMode": True, "url": "redis://redis.invalid:6379"}
        },
        "controlPlane": {"replicas": 2, "stateStore": {"managed": {}}},
    }  # fmt: skip

    BODIES: ClassVar[dict[tuple[str, str], dict[str, Any]]] = {
        ("service", "f-control-plane"): {"spec": {"ports": [{"port": 80}]}},
        ("serviceaccount", "f-workers"): {},
        ("networkpolicy", "f-workers"): {"spec": {"podSelector": {}}},
        ("pdb", "f-control-plane"): {"spec": {"selector": {"matchLabels": {"a": "b"}}}},
        ("configmap", "f-config"): {"data": {"a": "b"}},
        ("secret", "f-internal"): {"data": {"a": "Yg=="}},
        ("secret", "f-addresses"): {"data": {"a": "Yg=="}},
        ("deployment", "f-orchestrator"): {"spec": POD_SPEC},
        ("statefulset", "f-state-store"): {"spec": {"serviceName": "a", **POD_SPEC}},
        ("wfs", "f-echo"): {
            "apiVersion": "llamadeploy.io/v1alpha1",
            "kind": "WorkflowService",
            "spec": {
                "deploymentRef": {"name": "elsewhere"},
                "path": "a:b",
                "source": {"configMap": {"name": "code"}},
            },
        },
    }

    def create(self) -> None:
        for (kind, name), body in self.BODIES.items():
            self.space.create(kind, {"metadata": {"name": name}, **body})

    def assert_untouched(self) -> None:
        for (kind, name), body in self.BODIES.items():
            found = self.space.get(kind, name)
            assert not found["metadata"].get("ownerReferences"), found
            assert "app.kubernetes.io/managed-by" not in (found["metadata"].get("labels") or {})
            assert found.get("data") == body.get("data")
            writers = {
                (entry["manager"], entry.get("subresource"))
                for entry in found["metadata"].get("managedFields") or ()
            }
            # A WorkflowService is told what it lacks, whosever it is.
            assert writers.isdisjoint({(names.MANAGER, None)}), found


@pytest.fixture
def foreign(space: Namespace) -> Foreign:
    return Foreign(space)


@pytest.fixture(scope="module")
def operator(
    api_server: Any, system: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """An operator of all namespaces for a whole module; it looks at everything all the time."""
    with starting(api_server, tmp_path_factory.mktemp("operator")) as start:
        process = start("--resync-seconds", "0.25")
        process.wait_working()
        yield process
        assert process.running, process.tail()


@pytest.fixture
def make_proxy(api_server: Any) -> Iterator[Callable[[], FaultProxy]]:
    if api_server.control_plane is None:
        pytest.skip("an existing cluster is not put behind a proxy")
    proxies: list[FaultProxy] = []

    def make() -> FaultProxy:
        proxies.append(
            FaultProxy(api_server.control_plane.url, api_server.control_plane.certificate)
        )
        proxies[-1].start()
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlaneProcess]:
    process = ControlPlaneProcess(tmp_path)
    yield process
    process.stop()
