"""KEDA's objects: made once its API is there, as the spec says, and never missed elsewhere."""

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
    service,
    settled,
)
from llamadeploy_operator.cluster import rbac

ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/test-operator"
AUTOSCALING = {
    "engine": "keda",
    "minReplicas": 0,
    "maxReplicas": 5,
    "targetBacklog": 4,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 90, "tolerance": 0.05}},
    "schedules": [{"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}],
}


def definition(kind: str, plural: str) -> dict[str, Any]:
    """As far as the operator is concerned; KEDA's own are tried elsewhere."""
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": free}}}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.keda.sh"},
        "spec": {
            "group": "keda.sh",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [version],
        },
    }


@pytest.fixture
def own_space(own_control_plane: ControlPlane) -> Any:
    """A namespace of a cluster of the test's own, whose APIs it may change."""
    api = Api(own_control_plane.kubeconfig)
    for name in (SYSTEM, "own"):
        create_once(api, "/api/v1/namespaces", {"metadata": {"name": name}})
    grant(api, "operator")
    rules = [rule.manifest() for rule in (*rbac.RULES, rbac.KEDA_RULE)]
    api.request("PATCH", ROLE, {"rules": rules}, content_type="application/merge-patch+json")
    yield Namespace(api, "own")
    api.close()


def on_redis(**autoscaling: Any) -> dict[str, Any]:
    return deployment(
        services=[service("echo", autoscaling={**AUTOSCALING, **autoscaling})],
        messageQueue={"type": "redis", "redis": {"exclusiveMode": True}, "managed": {}},
        controlPlane={"stateStore": {"managed": {}}},
    )


def test_kedas_objects_come_and_go(
    own_space: Namespace, own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    space, audit = own_space, own_control_plane.audit
    assert audit is not None
    operator = OperatorProcess(
        own_control_plane.kubeconfig_for("operator"), tmp_path, "--resync-seconds", "0.25"
    )
    operator.start()
    try:
        operator.wait_working()
        space.create("ldep", on_redis())
        reason = "KedaNotInstalled"
        eventually(
            lambda: space.condition("wfs", "d-echo", "ScalingLimited")[1] == reason, "it is said"
        )
        assert space.condition("wfs", "d-echo", "Stalled")[0] == "False"

        # Installed later: found by itself.
        kinds = {
            "ScaledObject": "scaledobjects", "TriggerAuthentication": "triggerauthentications"
        }  # fmt: skip
        for kind, plural in kinds.items():
            (tmp_path / f"{plural}.yaml").write_text(yaml.safe_dump(definition(kind, plural)))
        space.api.install_crds(*(tmp_path / f"{plural}.yaml" for plural in kinds.values()))
        audit.mark()
        made = eventually(lambda: space.find("scaledobject", "d-echo-worker"), "made", 90)
        spec = made["spec"]
        assert spec["scaleTargetRef"] == {
            "apiVersion": "llamadeploy.io/v1alpha1", "kind": "WorkflowService", "name": "d-echo"
        }  # fmt: skip
        counts = [spec[name] for name in ("minReplicaCount", "maxReplicaCount", "cooldownPeriod")]
        assert counts == [0, 5, 90]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior["scaleDown"]["tolerance"] == "0.05"
        work, cron = spec["triggers"]
        url = "http://d-control-plane.own.svc:8000/services/echo/scaling?strict=true"
        assert work["metadata"] | {"url": url, "valueLocation": "backlog"} == work["metadata"]
        assert (cron["type"], cron["metadata"]["desiredReplicas"]) == ("cron", "2")
        token = space.get("triggerauthentication", work["authenticationRef"]["name"])
        reference = token["spec"]["secretTargetRef"][0]
        assert reference["key"] in space.get("secret", reference["name"])["data"]
        eventually(
            lambda: space.condition("wfs", "d-echo", "ScalingLimited")[0] == "False", "and said"
        )

        # Edited, and deleted: restored. Suspended: paused, and back.
        space.patch("scaledobject", "d-echo-worker", {"spec": {"maxReplicaCount": 50}})
        eventually(
            lambda: space.get("scaledobject", "d-echo-worker")["spec"] == spec, "it is repaired"
        )
        space.delete("triggerauthentication", "d-echo-worker")
        eventually(lambda: space.find("triggerauthentication", "d-echo-worker"), "made anew")

        def paused() -> str | None:
            metadata = space.get("scaledobject", "d-echo-worker")["metadata"]
            found: str | None = metadata["annotations"].get("autoscaling.keda.sh/paused")
            return found

        space.patch("ldep", "d", {"spec": {"suspend": True}})
        eventually(lambda: paused() == "true", "it is paused")
        space.patch("ldep", "d", {"spec": {"suspend": False}})
        eventually(lambda: paused() is None, "it goes on")
        # KEDA's number is nobody else's.
        space.patch("wfs", "d-echo", {"spec": {"replicas": 3}}, "scale")
        settled(space, operator)
        assert space.get("wfs", "d-echo")["spec"]["replicas"] == 3

        # Somebody else's of those names are left alone.
        for kind, word in (("scaledobject", "ScaledObject"),
                           ("triggerauthentication", "TriggerAuthentication")):  # fmt: skip
            foreign = {"apiVersion": "keda.sh/v1alpha1", "kind": word, "spec": {}}
            space.create(kind, {**foreign, "metadata": {"name": "e-echo-worker"}})
        other = on_redis()
        space.create("ldep", {**other, "metadata": {"name": "e"}})
        eventually(
            lambda: space.condition("wfs", "e-echo", "Stalled")[:2] == ("True", "NameConflict"),
            "it is told",
        )
        space.delete("ldep", "e")

        # Another engine: they go.
        services = on_redis(engine="operator")["spec"]["services"]
        space.patch("ldep", "d", {"spec": {"services": services}})
        for kind in ("scaledobject", "triggerauthentication"):
            eventually(
                lambda kind=kind: space.names(kind) == {"e-echo-worker"}, f"{kind} is pruned"
            )
        used = set()
        for request in audit.requests(user="operator"):
            assert request.status != 403, request
            if request.group == "keda.sh":
                used.add((request.resource, request.verb))
                if (request.verb, request.status) == ("patch", 201):
                    used.add((request.resource, "create"))
        wanted = {
            (resource, verb)
            for resource in rbac.KEDA_RULE.resources
            for verb in rbac.KEDA_RULE.verbs
        }
        assert used == wanted
    finally:
        operator.stop()
