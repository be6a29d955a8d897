"""Volumes of managed servers: seen by their labels, kept under Retain, and found again."""

from __future__ import annotations

from typing import Any

from e2e.operator_process import Namespace, OperatorProcess, deployment, eventually
from llamadeploy_operator import names

SELECTED = {"labelSelector": f"{names.MANAGED_BY_LABEL}={names.MANAGER}"}


def managed(policy: str) -> dict[str, Any]:
    return deployment(
        services=[],
        defaultService=None,
        messageQueue={"type": "redis", "redis": {"exclusiveMode": True}, "managed": {}},
        controlPlane={"stateStore": {"managed": {}}},
        deletionPolicy=policy,
    )


def claims(space: Namespace) -> dict[str, str]:
    """Name -> uid of the claims that the operator's watch selects."""
    found = space.api.request("GET", space.path("pvc"), params=SELECTED)["items"]
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in found}


def test_retained_volumes_and_passwords_are_found_again(
    space: Namespace, operator: OperatorProcess
) -> None:
    space.create("ldep", managed("Retain"))
    wanted = {"data-d-queue-0", "data-d-state-store-0"}
    eventually(lambda: set(claims(space)) == wanted, "both have a volume", 30)
    before, secret = claims(space), space.get("secret", "d-internal")
    space.delete("ldep", "d")
    eventually(lambda: not space.names("statefulset"), "the servers go", 60)
    eventually(lambda: not space.names("pod"), "their pods go", 60)
    assert claims(space) == before
    # Nothing that is kept would be deleted with an owner.
    for item in [*space.list("pvc"), space.get("secret", "d-internal")]:
        assert not item["metadata"].get("ownerReferences"), item

    space.create("ldep", managed("Retain"))
    eventually(lambda: space.names("pod") >= {"d-queue-0", "d-state-store-0"}, "they are back", 30)
    assert claims(space) == before
    assert space.get("secret", "d-internal")["data"] == secret["data"]
    assert "data-d-queue-0" in str(space.get("pod", "d-queue-0")["spec"]["volumes"])

    # No longer kept: all of it goes with its Deployment.
    space.patch("ldep", "d", {"spec": {"deletionPolicy": "Delete"}})
    kept = "persistentVolumeClaimRetentionPolicy"

    def owned() -> bool:
        policies = [item["spec"][kept]["whenDeleted"] for item in space.list("statefulset")]
        return policies == ["Delete", "Delete"] and all(
            item["metadata"].get("ownerReferences")
            for item in [*space.list("pvc"), space.get("secret", "d-internal")]
        )

    eventually(owned, "they are owned", 30)
    space.delete("ldep", "d")

    def gone() -> bool:
        # No controller of this cluster takes the protection of claims in use away.
        left = [item for item in space.list("pvc") if not item["metadata"].get("deletionTimestamp")]
        return not left and "d-internal" not in space.names("secret")

    eventually(gone, "nothing is kept", 60)


def test_a_volume_that_nobody_provides_is_told(space: Namespace, operator: OperatorProcess) -> None:
    body = managed("Delete")
    body["spec"]["controlPlane"]["stateStore"]["managed"] = {
        "storage": {"size": "1Gi", "storageClassName": "fast"}
    }
    space.create("ldep", body)
    pods = {"d-queue-0", "d-state-store-0"}
    eventually(lambda: pods <= space.names("pod"), "the servers' pods are there", 30)
    space.evaluated("ldep", "d")
    assert space.condition("ldep", "d", "Degraded")[0] == "False"
    # What a scheduler says; no one runs here.
    text = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    for name in pods:
        unscheduled = {
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text
        }  # fmt: skip
        space.patch("pod", name, {"status": {"conditions": [unscheduled]}}, "status")

    def told() -> bool:
        status, reason, message = space.condition("ldep", "d", "Degraded")
        return (status, reason) == ("True", "VolumePending") and all(
            part in message
            for part in (
                "data-d-queue-0: it has no StorageClass",
                "data-d-state-store-0: StorageClass 'fast' has provided no volume",
            )
        )

    eventually(told, "the claims are named, and what to do")
    assert space.condition("ldep", "d", "Ready")[1] == "VolumePending"
    space.patch("pvc", "data-d-queue-0", {"status": {"phase": "Bound"}}, "status")
    eventually(lambda: "data-d-queue-0" not in str(space.get("ldep", "d")["status"]), "bound")
