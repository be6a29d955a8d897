"""What Flux, ``kubectl wait`` and other readers of the common conditions see in our objects.

The rules are kstatus's (sigs.k8s.io/cli-utils, pkg/kstatus/status, ``checkGenericProperties`` and
``checkReadyCondition``), which Flux's health checks use.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.operator_process import Json, Namespace, OperatorProcess, deployment, eventually, service

FIELDS = ("ldep", "wfs")


def kstatus(body: Json) -> tuple[str, str]:
    """``Current``, ``InProgress``, ``Failed`` or ``Terminating``, and why."""
    if body["metadata"].get("deletionTimestamp"):
        return "Terminating", ""
    status = body.get("status", {})
    observed = status.get("observedGeneration")
    if observed is not None and observed != body["metadata"]["generation"]:
        return "InProgress", "the generation was not observed"
    found = {item["type"]: item for item in status.get("conditions", [])}
    for name, meaning in (("Reconciling", "InProgress"), ("Stalled", "Failed")):
        if found.get(name, {}).get("status") == "True":
            return meaning, found[name]["message"]
    ready = found.get("Ready")
    if ready is not None and ready["status"] != "True":
        return "InProgress", ready["message"]
    return "Current", ""


@pytest.fixture
def pods_run(simulated_nodes: Any) -> Iterator[None]:
    if simulated_nodes is None:
        pytest.skip("the pods of this test have no image: it needs simulated nodes")
    yield


def states(space: Namespace) -> dict[str, str]:
    return {
        f"{kind}/{item['metadata']['name']}": kstatus(item)[0]
        for kind in FIELDS
        for item in space.list(kind)
    }


def test_ready_objects_are_current_and_kubectl_waits_for_them(
    space: Namespace, operator: OperatorProcess, api_server: Any, kubectl: Path, pods_run: None
) -> None:
    space.create("ldep", deployment())
    assert wait_by_kubectl(kubectl, api_server, space, "ldep/d", "Ready") == 0
    eventually(
        lambda: states(space) == {"ldep/d": "Current", "wfs/d-echo": "Current"}, "all is current"
    )
    space.patch("ldep", "d", {"spec": {"services": [service("echo", replicas=2)]}})
    # Whoever reads between the write and the operator's look must not take the old status for new.
    assert kstatus(space.get("ldep", "d"))[0] in ("InProgress", "Current")
    space.evaluated("ldep", "d")
    eventually(lambda: set(states(space).values()) == {"Current"}, "it is current again")


def test_a_spec_that_cannot_be_carried_out_has_failed_until_it_is_mended(
    space: Namespace, operator: OperatorProcess, api_server: Any, kubectl: Path, pods_run: None
) -> None:
    bad = {"spec": {"containers": [{"name": "worker", "volumeMounts": "none"}]}}
    space.create("ldep", deployment(services=[service("echo", podTemplate=bad)]))
    eventually(lambda: states(space).get("wfs/d-echo") == "Failed", "the service has failed")
    assert kstatus(space.get("wfs", "d-echo"))[1]
    assert wait_by_kubectl(kubectl, api_server, space, "wfs/d-echo", "Stalled") == 0
    space.patch("ldep", "d", {"spec": {"services": [service("echo")]}})
    eventually(lambda: set(states(space).values()) == {"Current"}, "it is mended", 60)


def wait_by_kubectl(
    program: Path, api_server: Any, space: Namespace, name: str, condition: str
) -> int:
    """The exit code of ``kubectl wait``."""
    done = subprocess.run(
        [
            str(program), "--kubeconfig", str(api_server.kubeconfig), "--namespace", space.name,
            "wait", f"--for=condition={condition}", name, "--timeout=60s",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode
