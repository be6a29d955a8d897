"""KEDA itself carries a service from zero to one and back, by the objects that the operator makes.

No node: workers are processes of this machine (``process_stage``), as KEDA's operator is.
"""

from __future__ import annotations

import httpx
import pytest

from e2e.cluster.api import MERGE_PATCH, Api
from e2e.cluster.build import BuildUnavailableError, keda_binary, keda_crds
from e2e.cluster.keda import ForwardProxy, Keda, prepare
from e2e.conftest import refused, say
from e2e.operator_process import eventually
from e2e.process_stage import WFS, WORKERS, Stage, stage
from llamadeploy_operator.cluster import rbac

ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/test-operator"

AUTOSCALING = {
    "engine": "keda",
    "minReplicas": 0,
    "maxReplicas": 3,
    "targetBacklog": 5,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
}


def ask(found: Stage, method: str, path: str, body: object = None) -> object:
    headers = {"Authorization": f"Bearer {found.token}"}
    url = f"{found.url}{path}"
    answer = httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False)
    answer.raise_for_status()
    return answer.json()


@pytest.mark.full
def test_keda_wakes_a_service_and_lets_it_rest() -> None:
    try:
        binary, crds = keda_binary(say), keda_crds(say)
    except BuildUnavailableError as error:
        refused(str(error))

    def installed(api: Api) -> None:
        prepare(api, crds)
        rules = [rule.manifest() for rule in (*rbac.RULES, rbac.KEDA_RULE)]
        api.request("PATCH", ROLE, {"rules": rules}, content_type=MERGE_PATCH)

    with stage(AUTOSCALING, installed) as found:
        proxy = ForwardProxy(found.url)
        proxy.start()
        keda = Keda(binary, found.control_plane.kubeconfig, found.folder, proxy.url)
        keda.start()
        try:
            eventually(keda.ready, "KEDA is ready", 60)
            carried(found, keda, proxy)
        finally:
            keda.stop()
            proxy.stop()


def carried(found: Stage, keda: Keda, proxy: ForwardProxy) -> None:
    space = found.space
    try:
        ready = lambda: space.condition("scaledobject", WORKERS, "Ready")[0] == "True"  # noqa: E731
        eventually(ready, "KEDA takes the ScaledObject", 60)
        eventually(lambda: found.asked() == 0, "KEDA lets the idle service rest", 120)
        eventually(lambda: found.pods() == 0, "no worker is there", 60)
        created = ask(
            found, "POST", "/deployments/d/tasks/create",
            {"input": '{"n": 7}', "service_id": "work"},
        )  # fmt: skip
        assert isinstance(created, dict)
        eventually(lambda: found.asked() == 1, "KEDA wakes it", 60)
        path = f"/deployments/d/tasks/{created['task_id']}/results"
        query = f"?session_id={created['session_id']}&wait=50"
        result = ask(found, "GET", path + query)
        assert isinstance(result, dict) and result["result"] == "7"
        eventually(lambda: found.asked() == 0, "KEDA lets it rest again", 120)
        eventually(lambda: found.pods() == 0, "no worker is there", 60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{proxy.asked[-5:]}\n{keda.tail()}") from None
    # Nobody else wrote the number, and KEDA's questions carried the token.
    managers = {
        entry["manager"]
        for entry in space.get("wfs", WFS)["metadata"]["managedFields"]
        if entry.get("subresource") == "scale"
    }
    assert len(managers) == 1 and "llamadeploy-autoscaler" not in managers, managers
    assert {status for _, status in proxy.asked} == {200}
