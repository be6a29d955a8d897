"""What becomes of a custom resource on a real API server."""

from __future__ import annotations

import base64
import time
from typing import Any

from e2e.operator_process import (
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    service,
    settled,
)

CHILDREN = {
    "deployment": {"d-control-plane", "d-echo-worker"},
    "service": {"d-control-plane"},
    "secret": {"d-internal"},
    "wfs": {"d-echo"},
    "networkpolicy": {"d-control-plane", "d-workers"},
}


def has_children(space: Namespace) -> bool:
    return all(wanted <= space.names(kind) for kind, wanted in CHILDREN.items())


def env_of(space: Namespace, name: str, workload: str = "d-echo-worker") -> Any:
    """The value of a variable of a workload's container."""
    containers = space.get("deployment", workload)["spec"]["template"]["spec"]["containers"]
    return next((item for item in containers[0]["env"] if item["name"] == name), None)


def test_a_resource_gets_its_children_and_nothing_is_put_on_it(
    space: Namespace, operator: OperatorProcess
) -> None:
    made = space.create("ldep", deployment())
    eventually(lambda: has_children(space), "all children are there", 10)
    space.evaluated("ldep", "d")
    eventually(
        lambda: "StateNotDurable" in {item["reason"] for item in space.list("event")},
        "an Event says that state is kept in memory",
    )
    for kind in (*CHILDREN, "ldep", "serviceaccount"):
        for item in space.list(kind):
            metadata = item["metadata"]
            annotations = metadata.get("annotations") or {}
            assert not metadata.get("finalizers"), item
            assert not [name for name in annotations if "kopf" in name], item
    owner = space.get("secret", "d-internal")["metadata"]["ownerReferences"][0]
    assert (owner["uid"], owner["controller"]) == (made["metadata"]["uid"], True)
    worker = space.get("deployment", "d-echo-worker")
    assert worker["metadata"]["ownerReferences"][0]["kind"] == "WorkflowService"
    assert space.condition("ldep", "d", "Ready")[0] == "False"


def test_a_deleted_or_edited_child_is_repaired_and_foreign_fields_stay(
    space: Namespace, operator: OperatorProcess
) -> None:
    space.create("ldep", deployment())
    eventually(lambda: has_children(space), "all children are there")
    settled(space, operator)
    name = "d-control-plane"
    image = space.get("deployment", name)["spec"]["template"]["spec"]["containers"][0]["image"]
    template = space.get("deployment", name)["spec"]["template"]

    for kind in ("deployment", "service", "networkpolicy", "serviceaccount"):
        old = space.get(kind, name)["metadata"]["uid"]
        space.delete(kind, name)

        def anew(kind: str = kind, old: str = old) -> bool:
            found = space.find(kind, name)
            return found is not None and found["metadata"]["uid"] != old

        eventually(anew, f"the {kind} is there again", 5)

    foreign = {"metadata": {"labels": {"team": "blue"}}, "spec": {"minReadySeconds": 7}}
    space.patch("deployment", name, foreign)
    template["spec"]["containers"][0] |= {"image": "evil:1", "tty": True}
    space.patch("deployment", name, {"spec": {"template": template, "replicas": 3}})

    def restored() -> bool:
        spec = space.get("deployment", name)["spec"]
        return (spec["replicas"], spec["template"]["spec"]["containers"][0]["image"]) == (1, image)

    eventually(restored, "the edit is undone", 5)
    settled(space, operator)
    found = space.get("deployment", name)
    assert found["metadata"]["labels"]["team"] == "blue"
    assert found["spec"]["minReadySeconds"] == 7
    assert found["spec"]["template"]["spec"]["containers"][0]["tty"] is True


def test_replicas_belong_to_whoever_set_them(space: Namespace, operator: OperatorProcess) -> None:
    space.create("ldep", deployment(services=[service("echo", replicas=5)]))

    def workers() -> Any:
        return space.get("deployment", "d-echo-worker")["spec"]["replicas"]

    queue_allows = 5
    eventually(lambda: workers() == queue_allows, "as many workers as named")
    # Named: another one's change is undone.
    space.patch("wfs", "d-echo", {"spec": {"replicas": 2}}, "scale")
    eventually(lambda: space.get("wfs", "d-echo")["spec"]["replicas"] == 5, "5 again")
    # Named -> omitted: what was stays.
    space.patch("ldep", "d", {"spec": {"services": [service("echo")]}})
    space.evaluated("ldep", "d")
    settled(space, operator)
    assert space.get("wfs", "d-echo")["spec"]["replicas"] == 5
    assert workers() == 5
    # Omitted: whoever scales owns it.
    space.patch("wfs", "d-echo", {"spec": {"replicas": 3}}, "scale")
    eventually(lambda: workers() == 3, "scaled by a person")
    settled(space, operator)
    assert space.get("wfs", "d-echo")["spec"]["replicas"] == 3
    # Named again.
    space.patch("ldep", "d", {"spec": {"services": [service("echo", replicas=1)]}})
    eventually(lambda: workers() == 1, "as named again")


def test_fields_of_an_inline_service_revert(space: Namespace, operator: OperatorProcess) -> None:
    space.create("ldep", deployment())
    eventually(lambda: has_children(space), "all children are there")
    space.patch("wfs", "d-echo", {"spec": {"path": "evil:flow"}})
    eventually(lambda: space.get("wfs", "d-echo")["spec"]["path"] == "workflow:flow", "reverted", 5)


def test_a_resource_may_come_before_its_secret_and_its_change_rolls_pods(
    space: Namespace, operator: OperatorProcess
) -> None:
    variable = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}
    space.create("ldep", deployment(services=[service("echo", env=[variable])]))
    eventually(lambda: has_children(space), "all children are there")
    settled(space, operator)

    def generation() -> Any:
        return space.get("deployment", "d-echo-worker")["metadata"]["generation"]

    def put(value: str) -> dict[str, str]:
        return {"k": base64.b64encode(value.encode()).decode()}

    first = generation()
    space.create("secret", {"metadata": {"name": "late"}, "data": put("1")})
    eventually(lambda: generation() > first, "the Secret's coming is seen", 5)
    settled(space, operator)
    second = generation()
    space.patch("secret", "late", {"data": put("2")})
    eventually(lambda: generation() == second + 1, "its change rolls the pods", 5)
    settled(space, operator)
    assert generation() == second + 1
    # Gone, or touched without a change of its contents: nothing rolls.
    space.patch("secret", "late", {"metadata": {"labels": {"a": "b"}}})
    settled(space, operator)
    space.delete("secret", "late")
    settled(space, operator)
    assert generation() == second + 1


def test_fifty_edits_in_a_second_converge_to_the_last(
    space: Namespace, operator: OperatorProcess
) -> None:
    space.create("ldep", deployment())
    eventually(lambda: has_children(space), "all children are there")
    for number in range(50):
        env = [{"name": "NUMBER", "value": str(number)}]
        space.patch("ldep", "d", {"spec": {"services": [service("echo", env=env)]}})
    last = {"name": "NUMBER", "value": "49"}
    eventually(lambda: env_of(space, "NUMBER") == last, "the last edit counts", 10)
    settled(space, operator)
    assert env_of(space, "NUMBER") == last


def test_an_object_that_is_not_ours_is_never_taken_over(
    space: Namespace, operator: OperatorProcess
) -> None:
    space.create(
        "service",
        {"metadata": {"name": "d-control-plane"}, "spec": {"ports": [{"port": 80}]}},
    )
    before = space.get("service", "d-control-plane")
    space.create("ldep", deployment())
    eventually(
        lambda: space.condition("ldep", "d", "Stalled")[:2] == ("True", "NameConflict"),
        "it is told",
    )
    assert "Service d-control-plane" in space.condition("ldep", "d", "Stalled")[2]
    settled(space, operator)
    assert space.get("service", "d-control-plane") == before
    events = [item for item in space.list("event") if item["reason"] == "NameConflict"]
    assert len(events) == 1
    # The cure.
    space.delete("service", "d-control-plane")
    eventually(lambda: has_children(space), "all children are there", 40)
    eventually(lambda: space.condition("ldep", "d", "Stalled")[0] == "False", "all is well", 40)


def test_a_bad_pod_template_stalls_and_is_cured(
    space: Namespace, operator: OperatorProcess
) -> None:
    def template(body: Any) -> dict[str, Any]:
        return {"spec": {"controlPlane": {"podTemplate": body}}}

    space.create("ldep", deployment())
    eventually(lambda: has_children(space), "all children are there")
    containers = [{"name": "control-plane", "imagePullPolice": "Always"}]
    for bad in ({"spec": {"containers": containers}}, {"spec": {"hostNetwork": True}}):
        space.patch("ldep", "d", template(bad))
        eventually(
            lambda: space.condition("ldep", "d", "Stalled")[:2] == ("True", "InvalidPodTemplate"),
            f"{bad} is refused",
        )
        space.patch("ldep", "d", template(None))
        eventually(lambda: space.condition("ldep", "d", "Stalled")[0] == "False", "it is cured")


def test_a_workflow_service_of_its_own(space: Namespace, operator: OperatorProcess) -> None:
    def own(name: str) -> dict[str, Any]:
        spec = {**service("x"), "serviceName": "extra", "deploymentRef": {"name": "d"}}
        del spec["name"]
        return {
            "apiVersion": "llamadeploy.io/v1alpha1",
            "kind": "WorkflowService",
            "metadata": {"name": name},
            "spec": spec,
        }

    def told(name: str, reason: str) -> bool:
        found = [item["reason"] for item in space.get("wfs", name)["status"]["conditions"]]
        return reason in found

    space.create("wfs", own("first"))
    eventually(lambda: told("first", "DeploymentNotFound"), "its Deployment is missing")
    assert not space.names("deployment")
    space.create("ldep", deployment())
    eventually(lambda: space.find("deployment", "first-worker"), "its workers come")
    # The oldest wins; creation times have seconds.
    created = space.get("wfs", "first")["metadata"]["creationTimestamp"]
    eventually(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > created, "a second")
    space.create("wfs", own("second"))
    eventually(lambda: told("second", "NameConflict"), "the younger one is told")
    assert space.find("deployment", "second-worker") is None
    space.delete("wfs", "first")
    eventually(lambda: space.find("deployment", "second-worker"), "its turn")
    # Without its Deployment no worker runs.
    space.delete("ldep", "d")
    eventually(
        lambda: space.get("deployment", "second-worker")["spec"]["replicas"] == 0, "no workers"
    )
