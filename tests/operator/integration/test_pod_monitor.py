"""PodMonitors: made where the Prometheus operator's API exists, not missed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.api import Api
from e2e.cluster.control_plane import ControlPlane
from e2e.operator_process import (
    SYSTEM,
    Namespace,
    OperatorProcess,
    create_once,
    deployment,
    eventually,
    grant,
    settled,
)
from llamadeploy_operator.cluster import rbac

ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/test-operator"
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"plural": "podmonitors", "singular": "podmonitor", "kind": "PodMonitor"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            }
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture
def own_space(own_control_plane: ControlPlane) -> Any:
    """A namespace of a cluster of the test's own, whose APIs it may change."""
    api = Api(own_control_plane.kubeconfig)
    for name in (SYSTEM, "own"):
        create_once(api, "/api/v1/namespaces", {"metadata": {"name": name}})
    grant(api, "operator")
    yield Namespace(api, "own")
    api.close()


def test_pod_monitors_are_made_where_they_exist(
    own_space: Namespace, own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    space, audit = own_space, own_control_plane.audit
    assert audit is not None

    def start() -> OperatorProcess:
        config = own_control_plane.kubeconfig_for("operator")
        process = OperatorProcess(config, tmp_path, "--resync-seconds", "0.25")
        process.start()
        process.wait_working()
        return process

    without = start()
    space.create("ldep", deployment(services=[], defaultService=None))
    try:
        eventually(lambda: "d-control-plane" in space.names("deployment"), "children are there")
        settled(space, without)
        assert without.metric("llamadeploy_operator_reconcile_errors_total") == 0
        assert space.condition("ldep", "d", "Stalled")[0] == "False"
    except BaseException:
        without.stop()
        raise

    crd = tmp_path / "crd.yaml"
    crd.write_text(yaml.safe_dump(CRD))
    space.api.install_crds(crd)
    rules = [rule.manifest() for rule in (*rbac.RULES, rbac.POD_MONITOR_RULE)]
    merge = "application/merge-patch+json"
    space.api.request("PATCH", ROLE, {"rules": rules}, content_type=merge)
    # The one that runs notices, and so does one that starts.
    try:
        eventually(lambda: space.find("podmonitor", "d-config"), "a PodMonitor", 60)
        assert without.running
    finally:
        without.stop()
    space.delete("podmonitor", "d-config")
    audit.mark()
    present = start()
    try:
        made = eventually(lambda: space.find("podmonitor", "d-config"), "a PodMonitor")
        chosen = made["spec"]["selector"]["matchLabels"]
        pods = space.get("deployment", "d-control-plane")["spec"]["template"]
        assert chosen.items() <= pods["metadata"]["labels"].items()
        ports = [port["name"] for port in pods["spec"]["containers"][0]["ports"]]
        assert {item["port"] for item in made["spec"]["podMetricsEndpoints"]} <= set(ports)
        # Edited, and left over from another release: repaired, and pruned.
        space.patch("podmonitor", "d-config", {"spec": {"podMetricsEndpoints": []}})
        kept = {key: made["metadata"][key] for key in ("labels", "ownerReferences")}
        stale = {**made, "metadata": {"name": "stale", **kept}}
        space.create("podmonitor", stale)
        eventually(
            lambda: space.get("podmonitor", "d-config")["spec"] == made["spec"], "it is repaired"
        )
        eventually(lambda: space.names("podmonitor") == {"d-config"}, "it is pruned")
        # Somebody else's of that name is looked at.
        space.create("podmonitor", {**stale, "metadata": {"name": "e-config"}})
        space.create("ldep", deployment("e", services=[], defaultService=None))
        eventually(
            lambda: space.condition("ldep", "e", "Stalled")[:2] == ("True", "NameConflict"),
            "it is told",
        )
        space.delete("ldep", "e")
        settled(space, present)
        used = set()
        for request in audit.requests(user="operator"):
            assert request.status != 403, request
            if request.resource == "podmonitors":
                used.add(request.verb)
                # An apply that creates needs the right to do that, too.
                used |= {"create"} if (request.verb, request.status) == ("patch", 201) else set()
        assert used == set(rbac.POD_MONITOR_RULE.verbs)
    finally:
        present.stop()
