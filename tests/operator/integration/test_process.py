"""Restarts, replicas, rights and absence of the operator's process."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from e2e.cluster.api import Api
from e2e.cluster.fault_proxy import FaultProxy
from e2e.control_plane_process import ControlPlaneProcess
from e2e.operator_process import (
    GROUP,
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    service,
)
from llamadeploy_operator.cluster import rbac

Start = Callable[..., OperatorProcess]


def ready_children(space: Namespace) -> bool:
    return {"d-control-plane", "d-echo-worker"} <= space.names("deployment")


POD: dict[str, Any] = {"spec": {"containers": [{"name": "a", "image": "b"}]}}


def two_services(**more: Any) -> dict[str, Any]:
    return deployment(services=[service("echo", replicas=2), service("other")], **more)


def test_a_steady_resource_causes_no_write_nor_does_a_restart(
    space: Namespace, start_operator: Start, api_server: Any
) -> None:
    scope = ("--namespace", space.name, "--resync-seconds", "0.25")
    operator = start_operator(*scope)
    operator.wait_working()
    space.create("ldep", two_services())
    eventually(lambda: ready_children(space), "all children are there")
    audit = api_server.audit

    def nothing_written(process: OperatorProcess, rounds: int) -> Counter[tuple[str, str]]:
        done = process.reconciled()
        # A Deployment and two WorkflowServices.
        eventually(lambda: process.reconciled() >= done + 3 * rounds, "resyncs", 60)
        written: Counter[tuple[str, str]] = audit.writes(user="operator", namespace=space.name)
        return written

    def calm() -> bool:
        audit.mark()
        return not nothing_written(operator, 8)  # 2 s; a status that decides nothing waits for 1 s

    eventually(calm, "the children's own controllers are done", 60)
    audit.mark()
    assert nothing_written(operator, 10) == {}
    operator.stop()
    again = start_operator(*scope)
    again.wait_working()
    assert nothing_written(again, 3) == {}


def test_sigterm_gives_the_lease_back_and_sigkill_lets_it_run_out(
    space: Namespace, start_operator: Start, api_server: Any
) -> None:
    together = ("--namespace", space.name, "--lease-name", f"lease-{space.name}")
    first = start_operator(*together)
    first.wait_working()
    second, third = start_operator(*together), start_operator(*together)

    def follower(process: OperatorProcess) -> bool:
        return process.fetch("/healthz")[0] == 200 and not process.leads()

    eventually(lambda: follower(second) and follower(third), "two wait, and are healthy")
    first.stop()
    stopped = time.monotonic()
    eventually(lambda: second.leads() or third.leads(), "one takes over", 15)
    given_back = time.monotonic() - stopped
    leader, last = (second, third) if second.leads() else (third, second)
    leader.wait_working()
    assert not last.leads()

    leader.kill()
    killed = time.monotonic()
    space.create("ldep", deployment())
    eventually(lambda: ready_children(space), "the last one works", 30)
    took = time.monotonic() - killed
    print(f"takeover after SIGTERM {given_back:.1f} s, after SIGKILL {took:.1f} s")
    assert given_back < 10
    assert took <= 20


def test_a_leader_whose_connection_is_cut_ends_and_another_takes_over(
    space: Namespace,
    start_operator: Start,
    make_proxy: Callable[[], FaultProxy],
    api_server: Any,
) -> None:
    proxy = make_proxy()
    together = ("--namespace", space.name, "--lease-name", f"lease-{space.name}")
    config = api_server.control_plane.kubeconfig_for("operator", server=proxy.url)
    first = start_operator(*together, kubeconfig=config)
    first.wait_working()
    second = start_operator(*together)
    eventually(lambda: second.fetch("/healthz")[0] == 200, "the second waits")
    proxy.cut()
    cut = time.monotonic()
    eventually(lambda: second.leads() or not first.running, "one of them notices", 30)
    # Never two: the former is gone before the next begins.
    assert not first.running
    assert not second.leads()
    eventually(second.leads, "the second takes over", 30)
    took = time.monotonic() - cut
    print(f"takeover after the cut {took:.1f} s")
    assert took <= 20
    assert "could not be renewed" in first.tail()
    space.create("ldep", deployment())
    eventually(lambda: ready_children(space), "it works")


def test_a_leader_that_was_frozen_writes_nothing_when_it_wakes(
    space: Namespace, start_operator: Start, api_server: Any
) -> None:
    together = ("--namespace", space.name, "--lease-name", f"lease-{space.name}")
    first = start_operator(*together, "--resync-seconds", "0.25")
    first.wait_working()
    second = start_operator(*together)
    eventually(lambda: second.fetch("/healthz")[0] == 200, "the second waits")
    space.create("ldep", deployment())
    eventually(lambda: ready_children(space), "all children are there")
    first.freeze()
    eventually(lambda: second.leads(), "the second takes over", 30)
    second.wait_working()
    # Something to be written, by whoever thinks that it leads.
    second.freeze()
    space.delete("service", "d-control-plane")
    api_server.audit.mark()
    first.thaw()
    eventually(lambda: not first.running, "the former leader ends", 30)
    assert api_server.audit.writes(user="operator", namespace=space.name) == {}
    second.thaw()
    eventually(lambda: space.find("service", "d-control-plane"), "the leader repairs it", 30)


def test_the_internal_secret_survives_errors_replicas_and_retention(
    space: Namespace, start_operator: Start, api_server: Any, api: Api
) -> None:
    # Without election, on purpose: both write at once.
    both = [
        start_operator(
            "--namespace", space.name, "--no-leader-election", "--resync-seconds", "0.25"
        )
        for _ in range(2)
    ]
    for process in both:
        process.wait_working()
    api_server.audit.mark()
    for number in range(5):
        body = deployment(f"d{number}", services=[], defaultService=None, deletionPolicy="Retain")
        space.create("ldep", body)
    names = [f"d{number}-internal" for number in range(5)]
    eventually(lambda: set(names) <= space.names("secret"), "all Secrets are there")
    secrets = {name: space.get("secret", name) for name in names}
    for process in both:
        done = process.reconciled()
        eventually(lambda p=process, d=done: p.reconciled() >= d + 15, "they look again")  # type: ignore[misc]
    assert {name: space.get("secret", name)["data"] for name in names} == {
        name: secret["data"] for name, secret in secrets.items()
    }
    created = [
        request
        for request in api_server.audit.requests(namespace=space.name, writes=True)
        if request.resource == "secrets" and request.status == 201
    ]
    assert len(created) == 5
    both[1].stop()

    # Retained: it outlives its Deployment, and the next of that name adopts it.
    space.delete("ldep", "d0")
    eventually(lambda: "d0-control-plane" not in space.names("deployment"), "it is gone", 60)
    kept = space.get("secret", "d0-internal")
    assert not kept["metadata"].get("ownerReferences")
    space.create("ldep", deployment("d0", services=[], defaultService=None))
    eventually(
        lambda: space.get("secret", "d0-internal")["metadata"].get("ownerReferences"),
        "it is adopted",
    )
    assert space.get("secret", "d0-internal")["data"] == secrets["d0-internal"]["data"]


def test_unreadable_secrets_are_neither_drawn_anew_nor_change_a_template(
    space: Namespace, start_operator: Start, api_server: Any, api: Api
) -> None:
    operator = start_operator("--namespace", space.name, "--resync-seconds", "0.25")
    operator.wait_working()
    variable = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    data = {"k": base64.b64encode(b"1").decode()}
    space.create("secret", {"metadata": {"name": "s"}, "data": data})
    space.create("ldep", deployment(services=[service("echo", env=[variable])]))
    eventually(lambda: ready_children(space), "all children are there")
    space.evaluated("wfs", "d-echo")
    internal = space.get("secret", "d-internal")
    before = space.get("deployment", "d-echo-worker")["metadata"]["generation"]
    operator.stop()

    base = "/apis/rbac.authorization.k8s.io/v1/clusterroles/test-operator"
    blind = [rule for rule in rbac.RULES if "secrets" not in rule.resources]
    # It may still list and watch (the metadata), and create: but not read.
    lists = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch", "create"]}
    maps = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}
    rules = [*(rule.manifest() for rule in blind), lists, maps]
    api.request("PATCH", base, {"rules": rules}, content_type="application/merge-patch+json")
    try:
        again = start_operator("--namespace", space.name, "--resync-seconds", "0.25")
        again.wait_working()
        eventually(
            lambda: again.metric("llamadeploy_operator_reconcile_errors_total") > 1, "errors"
        )
        assert space.get("secret", "d-internal")["data"] == internal["data"]
        assert space.get("deployment", "d-echo-worker")["metadata"]["generation"] == before
        assert space.condition("ldep", "d", "Reconciling")[0] == "True"
    finally:
        rules = [rule.manifest() for rule in rbac.RULES]
        api.request("PATCH", base, {"rules": rules}, content_type="application/merge-patch+json")

    def healed() -> bool:
        return "ClusterError" not in str(space.get("ldep", "d")["status"])

    eventually(healed, "it heals", 60)
    assert space.get("secret", "d-internal")["data"] == internal["data"]
    assert space.get("deployment", "d-echo-worker")["metadata"]["generation"] == before


def test_without_the_operator_everything_can_be_deleted(
    space: Namespace, start_operator: Start
) -> None:
    operator = start_operator("--namespace", space.name)
    operator.wait_working()
    space.create("ldep", two_services())
    eventually(lambda: ready_children(space), "all children are there")
    operator.kill()
    space.delete("ldep", "d")
    kinds = ("ldep", "wfs", "deployment", "service", "networkpolicy", "pdb")
    eventually(lambda: not any(space.names(kind) for kind in kinds), "all is gone", 120)
    assert "d-internal" not in space.names("secret")


def test_a_namespace_with_200_resources_goes_without_the_operator(
    api: Api, space: Namespace, start_operator: Start
) -> None:
    operator = start_operator("--namespace", space.name)
    operator.wait_working()
    started = time.monotonic()
    for number in range(200):
        space.create("ldep", deployment(f"d{number}", services=[], defaultService=None))
    eventually(lambda: len(space.names("deployment")) == 200, "all have children", 100)
    made = time.monotonic() - started
    operator.kill()
    started = time.monotonic()
    api.request("DELETE", f"/api/v1/namespaces/{space.name}")
    everywhere = f"{GROUP}/namespaces/{space.name}/llamadeployments"
    eventually(lambda: not api.request("GET", everywhere)["items"], "all are gone", 120)
    print(f"200 made in {made:.0f} s, deleted in {time.monotonic() - started:.0f} s")


def test_each_right_is_used_and_none_is_missing(
    space: Namespace,
    start_operator: Start,
    api_server: Any,
    control_plane: ControlPlaneProcess,
    foreign: Any,
) -> None:
    """With exactly the listed rights; what seldom happens is made to happen here."""
    audit = api_server.audit
    audit.mark()
    control_plane.start_with("")  # which a removed service is asked of
    operator = start_operator(
        "--namespace", space.name, "--resync-seconds", "0.25",
        "--control-plane-url-template", control_plane.url,
    )  # fmt: skip
    operator.wait_working()

    def unused() -> set[tuple[str, str, str]]:
        used = set()
        for request in audit.requests(user="operator"):
            assert request.status != 403, request
            used.add((request.group, request.resource, request.verb))
            if (request.verb, request.status) == ("patch", 201):
                # An apply that creates needs the right to do that, too.
                used.add((request.group, request.resource, "create"))
        return {
            (rule.group, resource, verb)
            for rule in (*rbac.RULES, rbac.LEASE_RULE)
            for resource in rule.resources
            for verb in rule.verbs
        } - used

    def pinned(ref: str, login: str = "user:password@") -> dict[str, Any]:
        url = f"https://{login}example.com/r.git"
        return service("pinned", source={"git": {"url": url, "ref": ref}})

    def change(**spec: Any) -> None:
        space.patch("ldep", "d", {"spec": spec})

    body = deployment(
        services=[
            service("echo", replicas=3),
            service("scaled", autoscaling={"minReplicas": 2, "maxReplicas": 3, "targetBacklog": 1}),
            pinned("main"),
        ],
        messageQueue={"type": "redis", "redis": {"exclusiveMode": True}, "managed": {}},
        ui={"name": "ui", "source": {"configMap": {"name": "code"}}},
    )
    space.create("ldep", body)
    eventually(lambda: ready_children(space), "all children are there")
    first = eventually(lambda: space.names("job"), "a resolver Job")
    eventually(lambda: space.get("wfs", "d-scaled")["spec"]["replicas"] == 2, "it is scaled")

    def echoes() -> list[str]:
        return sorted(name for name in space.names("pod") if name.startswith("d-echo-worker-"))

    busy = eventually(lambda: echoes() if len(echoes()) == 3 else [], "three pods")[1]
    _, task = control_plane.task("echo")
    control_plane.begin(task, f"{busy}-00c0ffee")
    # Another source: the former Job is pruned. Its successor succeeds, and its log is asked for.
    change(services=[service("echo", replicas=1), pinned("other")])
    job = eventually(lambda: space.names("job") - first, "another Job").pop()
    eventually(lambda: echoes() == [busy], "the idle pods go, the busy one stays")
    eventually(lambda: space.names("job") == {job}, "the former is pruned")

    def pods_of_the_job() -> list[str]:
        label = "batch.kubernetes.io/job-name"
        metadata = [item["metadata"] for item in space.list("pod")]
        return [item["name"] for item in metadata if item["labels"].get(label) == job]

    pod = eventually(pods_of_the_job, "its pod")[0]
    space.patch("pod", pod, {"status": {"phase": "Succeeded"}}, "status")
    eventually(lambda: ("", "pods/log", "get") not in unused(), "its log is asked for")
    # Somebody else's objects with names of children are looked at, and left alone.
    foreign.create()
    strangers = deployment("f", services=[service("echo"), pinned("f")], **foreign.SPEC)
    space.create("ldep", strangers)
    resolver = eventually(
        lambda: [name for name in space.names("job") if name.startswith("f-")], "its Job"
    )[0]
    stranger = {"template": {"spec": {"restartPolicy": "Never", **POD["spec"]}}}
    space.delete("ldep", "f")
    eventually(lambda: resolver not in space.names("job"), "the Job goes", 60)
    space.create("job", {"metadata": {"name": resolver}, "spec": stranger})
    space.create("ldep", strangers)
    eventually(lambda: ("batch", "jobs", "get") not in unused(), "a stranger's Job is looked at")
    eventually(lambda: space.condition("ldep", "f", "Stalled")[0] == "True", "it is told")
    space.delete("ldep", "f")
    # A login less: the Secret that held it is pruned.
    change(services=[service("echo", replicas=1), pinned("other", login="")])
    eventually(lambda: ("", "secrets", "delete") not in unused(), "a Secret is pruned")
    # A reason to tell people something.
    change(controlPlane={"podTemplate": {"spec": {"hostNetwork": True}}})
    eventually(lambda: space.condition("ldep", "d", "Stalled")[0] == "True", "it is refused")
    # Everything goes again but what a bare Deployment has.
    change(services=[service("echo", replicas=1)], controlPlane=None, ui=None)
    kept = {"d-echo", "f-echo"}
    eventually(lambda: space.names("wfs") == kept, "services are pruned")
    # Left over from a former release, say.
    stale = space.get("configmap", "d-config")
    marks = {key: stale["metadata"][key] for key in ("labels", "ownerReferences")}
    space.create("configmap", {"metadata": {"name": "stale", **marks}})
    eventually(lambda: "stale" not in space.names("configmap"), "it is pruned")
    assert space.names("statefulset") == {"d-queue", "f-state-store"}
    foreign.assert_untouched()

    try:
        eventually(lambda: not unused(), "each right is used", 20)
    except AssertionError:
        raise AssertionError(f"never used: {sorted(unused())}") from None
