"""A team that may only write WorkflowServices in its namespace; a service that is removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.client_pod import ClientPod
from e2e.cluster.api import APPLY, Api, ApiRefusedError
from e2e.cluster.service_account import service_account_kubeconfig
from e2e.manifests import code, deployment, managed_redis
from e2e.operator_process import GROUP, Json, eventually
from e2e.space import Space, gone

Client = Callable[[str], ClientPod]
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def workflow_service(name: str) -> Json:
    return {
        "apiVersion": "llamadeploy.io/v1alpha1",
        "kind": "WorkflowService",
        "metadata": {"name": name},
        "spec": {
            "deploymentRef": {"name": "shop"}, "serviceName": name, "path": "workflow:flow",
            "source": {"configMap": {"name": "team-code"}},
        },
    }  # fmt: skip


def test_a_team_adds_its_service(space: Space, client: Client, tmp_path: Path) -> None:
    space.apply(code("code", "v1"), code("team-code", "team"), deployment("shop"))
    verbs = ["create", "patch", "get", "delete"]
    rule = {"apiGroups": ["llamadeploy.io"], "resources": ["workflowservices"], "verbs": verbs}
    place = f"{RBAC}/namespaces/{space.name}"
    space.api.request("POST", f"{place}/roles", {"metadata": {"name": "team"}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": "team", "namespace": space.name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "team"}
    binding = {"metadata": {"name": "team"}, "roleRef": role, "subjects": [subject]}
    space.api.request("POST", f"{place}/rolebindings", binding)
    team = Api(service_account_kubeconfig(space.api, space.name, "team", tmp_path))
    for forbidden in ("ldep", "pod", "secret", "configmap"):
        with pytest.raises(ApiRefusedError) as caught:
            team.request("GET", space.path(forbidden))
        assert caught.value.status == 403
    user = client("shop")
    params = {"fieldManager": "team", "force": "true"}
    path = f"{GROUP}/namespaces/{space.name}/workflowservices/extra"
    team.request("PATCH", path, workflow_service("extra"), params=params, content_type=APPLY)
    space.wait_ready("extra", "wfs", 240)
    space.wait_ready("shop")
    done = user.llamactl("run", "-d", "shop", "-s", "extra", "-a", "n", "5")
    assert (done.code, done.stdout.strip()) == (0, "team 5"), done
    team.request("DELETE", path)
    eventually(lambda: gone(space, "deployment", "extra-worker"), "its workers are gone", 60)
    team.close()


def test_a_removed_service_drains(space: Space, client: Client) -> None:
    """Its worker stays, and takes what is queued, until nothing of it is left."""
    body = deployment("shop", **managed_redis())
    slow = {"name": "slow", "source": {"configMap": {"name": "code"}}, "path": "workflow:flow",
            "replicas": 1, "maxConcurrentTasks": 1}  # fmt: skip
    body["spec"]["services"].append(slow)
    space.apply(code("code", "v1"), body)
    user = client("shop")
    space.wait_ready("shop", seconds=300)
    words = ("-a", "pause", "6", "-a", "n")
    tasks = [user.start("slow", *words, str(number)) for number in range(3)]
    body["spec"]["services"].pop()
    space.apply(body)
    space.wait_condition("ldep", "shop", "Progressing", "DrainingService", 60)
    assert space.pods(component="worker", service="slow"), "its worker stays"
    eventually(lambda: gone(space, "wfs", "shop-slow"), "it goes when its tasks have ended", 180)
    assert [user.state(task) for task in tasks] == ["succeeded"] * 3
    eventually(lambda: not space.pods(component="worker", service="slow"), "its worker goes", 120)
