"""A real API server accepts every golden child, strictly, and its pods under *restricted*."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llamadeploy_operator.desired import deployment_children, service_children

CASES = ["quickstart", "redis_by_secret", "simple_memory", "git_credentials", "ui", "overlay"]
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "WorkflowService": "/apis/llamadeploy.io/v1alpha1/namespaces/{}/workflowservices",
}
APPLY = "application/apply-patch+yaml"


def placed(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The manifest in the test's namespace, without its owner, which is not there."""
    found = copy.deepcopy(manifest)
    found["metadata"]["namespace"] = namespace
    found["metadata"].pop("ownerReferences", None)
    return found


def served(api: Any, kind: str) -> bool:
    """Our own kinds may not be installed."""
    if kind != "WorkflowService":
        return True
    groups = api.request("GET", "/apis")["groups"]
    return "llamadeploy.io" in {each["name"] for each in groups}


def unresolved(case: Any) -> list[Any]:
    """The Jobs that come before."""
    found = deployment_children(replace(case.deployment, resolution=None))
    for service in case.services:
        found += service_children(replace(service, resolution=None))
    return [each for each in found if each["kind"] == "Job"]


@pytest.mark.parametrize("name", CASES)
def test_accepted(name: str, load: Callable[[str], Any], api: Any, namespace: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    path = f"/api/v1/namespaces/{namespace}"
    api.request("PATCH", path, {"metadata": {"labels": labels}},
                content_type="application/merge-patch+json")  # fmt: skip
    case = load(name)
    strictly = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict"}
    templates = []
    for manifest in [*case.children, *unresolved(case)]:
        kind = manifest["kind"]
        if not served(api, kind):
            continue
        wanted = placed(manifest, namespace)
        target = f"{PATHS[kind].format(namespace)}/{wanted['metadata']['name']}"
        first = api.request("PATCH", target, wanted, params=strictly, content_type=APPLY)
        again = api.request("PATCH", target, wanted, params=strictly, content_type=APPLY)
        assert (
            again["metadata"]["generation" if kind == "Deployment" else "uid"]
            == (first["metadata"]["generation" if kind == "Deployment" else "uid"])
        )
        if "template" in wanted.get("spec", {}):
            template = copy.deepcopy(wanted["spec"]["template"])
            claims = wanted["spec"].get("volumeClaimTemplates", [])
            # Pods of a StatefulSet get their claims from its controller.
            template["spec"]["volumes"] += [
                {"name": each["metadata"]["name"], "emptyDir": {}} for each in claims
            ]
            template["spec"].pop("priorityClassName", None)  # the class is not there
            templates.append((wanted["metadata"]["name"], template))
            if kind == "Deployment":
                # A live template, with every default filled in, is the same template.
                live = copy.deepcopy(wanted)
                live["spec"]["template"] = first["spec"]["template"]
                kept = api.request("PATCH", target, live, params=strictly, content_type=APPLY)
                back = api.request("PATCH", target, wanted, params=strictly, content_type=APPLY)
                generations = {each["metadata"]["generation"] for each in (first, kept, back)}
                assert len(generations) == 1, wanted["metadata"]["name"]
    assert templates
    for workload, template in templates:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": workload, "namespace": namespace},
            "spec": template["spec"],
        }
        params = {"dryRun": "All", "fieldValidation": "Strict"}
        api.request("POST", f"{path}/pods", pod, params=params)
