"""KEDA's own definitions take what we make for it, with no field that they do not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from e2e.cluster.api import APPLY, Api, ApiRefusedError
from e2e.cluster.build import BuildUnavailableError, keda_crds
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.keda import prepare
from llamadeploy_operator.desired import Capabilities, service_children

PLURALS = {"ScaledObject": "scaledobjects", "TriggerAuthentication": "triggerauthentications"}
RULES = {
    "stabilizationWindowSeconds": 90,
    "selectPolicy": "Min",
    "tolerance": 0.05,
    "policies": [{"type": "Percent", "value": 50, "periodSeconds": 30}],
}
SPECS: list[dict[str, Any]] = [
    {"targetBacklog": 4},
    {
        "targetWaitSeconds": 2.5,
        "behavior": {"scaleUp": RULES, "scaleDown": RULES},
        "schedules": [
            {
                "start": "0 8 * * MON-FRI",
                "end": "0 18 * * MON-FRI",
                "timeZone": "Europe/Berlin",
                "minReplicas": 2,
            }
        ],
    },
]


def children(case: Callable[..., Any], suspend: bool, autoscaling: dict[str, Any]) -> list[Any]:
    service = {
        "name": "echo", "source": {"configMap": {"name": "code"}}, "path": "echo:workflow",
        "autoscaling": {"engine": "keda", "minReplicas": 0, "maxReplicas": 5, **autoscaling},
    }  # fmt: skip
    queue = {"type": "redis", "redis": {"exclusiveMode": True}, "managed": {}}
    found = case({"messageQueue": queue, "services": [service], "suspend": suspend})
    context = replace(found.services[0], capabilities=Capabilities(keda=True))
    return [each for each in service_children(context) if each["kind"] in PLURALS]


def test_kedas_definitions_take_our_objects(
    own_control_plane: ControlPlane, case: Callable[..., Any]
) -> None:
    try:
        crds = keda_crds()
    except BuildUnavailableError as error:
        pytest.skip(str(error))
    api = Api(own_control_plane.kubeconfig)
    prepare(api, [path for path in crds if path.name.startswith("keda.sh_")])
    made = [each for number, spec in enumerate(SPECS) for each in children(case, number == 1, spec)]
    assert [each["kind"] for each in made] == ["TriggerAuthentication", "ScaledObject"] * 2
    namespace = {"metadata": {"name": made[0]["metadata"]["namespace"]}}
    if namespace["metadata"]["name"] != "default":
        api.request("POST", "/api/v1/namespaces", namespace)
    for body in made:
        assert strictly(api, body)["spec"] == body["spec"]
    wrong = {**made[1], "spec": {**made[1]["spec"], "pollInterval": 5}}
    with pytest.raises(ApiRefusedError, match="pollInterval"):
        strictly(api, wrong)
    api.close()


def strictly(api: Api, body: dict[str, Any]) -> Any:
    place = f"/apis/keda.sh/v1alpha1/namespaces/{body['metadata']['namespace']}"
    path = f"{place}/{PLURALS[body['kind']]}/{body['metadata']['name']}"
    params = {"fieldManager": "t", "fieldValidation": "Strict", "dryRun": "All"}
    return api.request("PATCH", path, body, params=params, content_type=APPLY)
