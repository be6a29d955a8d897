"""What the operator does not own it never takes over, whatever its name."""

from __future__ import annotations

from typing import Any

from e2e.operator_process import (
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    settled,
)


def test_no_object_of_a_childs_name_is_taken_over(
    space: Namespace, operator: OperatorProcess, foreign: Any
) -> None:
    foreign.create()
    space.create("ldep", deployment("f", **foreign.SPEC))
    eventually(
        lambda: space.condition("ldep", "f", "Stalled")[:2] == ("True", "NameConflict"),
        "it is told",
    )
    settled(space, operator)
    foreign.assert_untouched()
    # What has no namesake is there all the same.
    assert "f-control-plane" in space.names("deployment")
    # The cure, one after the other.
    for kind, name in foreign.BODIES:
        space.delete(kind, name)
    eventually(lambda: space.condition("ldep", "f", "Stalled")[0] == "False", "all is well", 60)
    assert space.get("secret", "f-internal")["data"].keys() >= {"api-token", "signing-key"}
    space.delete("ldep", "f")


def test_a_volume_that_is_not_ours_is_not_mounted(
    space: Namespace, operator: OperatorProcess
) -> None:
    """A StatefulSet's pods take a claim by its name alone."""
    claim = {
        "metadata": {"name": "data-d-queue-0"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    space.create("pvc", claim)
    queue = {"type": "redis", "redis": {"exclusiveMode": True}, "managed": {}}
    space.create("ldep", deployment(messageQueue=queue))
    eventually(
        lambda: space.condition("ldep", "d", "Stalled")[:2] == ("True", "NameConflict"),
        "it is told",
    )
    message = space.condition("ldep", "d", "Stalled")[2]
    assert message.startswith("PersistentVolumeClaim data-d-queue-0 exists already"), message
    settled(space, operator)
    assert space.names("statefulset") == set()
    assert not space.get("pvc", "data-d-queue-0")["metadata"].get("labels")
    space.delete("pvc", "data-d-queue-0")
    # No controller of this cluster takes the protection of claims in use away.
    space.patch("pvc", "data-d-queue-0", {"metadata": {"finalizers": None}})
    eventually(lambda: space.names("statefulset") == {"d-queue"}, "the queue is made", 60)
