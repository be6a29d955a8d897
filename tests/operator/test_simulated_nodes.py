"""Pods become ready without a machine."""

from __future__ import annotations

from typing import Any

from e2e.cluster.api import wait_for

POD = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {
        "initContainers": [{"name": "first", "image": "nowhere/none"}],
        "containers": [{"name": "main", "image": "nowhere/none"}],
    },
}


def test_a_deployment_becomes_available(api: Any, namespace: str, simulated_nodes: Any) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": POD}
    api.request("POST", path, {"metadata": {"name": "x"}, "spec": spec})

    def ready() -> int:
        return int(api.request("GET", f"{path}/x").get("status", {}).get("readyReplicas", 0))

    wait_for(lambda: ready() == 2, 60, "two pods are ready")


def test_a_job_ends(api: Any, namespace: str, simulated_nodes: Any) -> None:
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    template = {"spec": {**POD["spec"], "restartPolicy": "Never"}}
    api.request("POST", path, {"metadata": {"name": "x"}, "spec": {"template": template}})
    wait_for(
        lambda: api.request("GET", f"{path}/x").get("status", {}).get("succeeded"), 60, "it ends"
    )
