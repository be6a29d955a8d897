"""Conditions and the rest of ``status``, from what is observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llamadeploy_operator.conditions import clean
from llamadeploy_operator.errors import Problem
from llamadeploy_operator.models.status import DeploymentStatus, WorkflowServiceStatus
from llamadeploy_operator.observed import (
    Observed,
    ObservedClaim,
    ObservedContainer,
    ObservedJob,
    ObservedPod,
    ObservedService,
    ObservedWorkload,
)
from llamadeploy_operator.reasons import Condition, Reason
from llamadeploy_operator.status import deployment_status, pin_of, service_status

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
SERVICE = {"name": "echo", "source": {"configMap": {"name": "code"}}, "path": "echo:workflow"}
READY = {"Ready": ("True", "AllReady", "")}


def workload(component: str = "control-plane", **fields: Any) -> ObservedWorkload:
    known = {
        "kind": "Deployment", "name": f"app-{component}", "component": component,
        "generation": 2, "observed_generation": 2, "desired": 1, "replicas": 1, "updated": 1,
        "ready": 1, "available": 1,
    }  # fmt: skip
    return ObservedWorkload(**{**known, **fields})


def service(**fields: Any) -> ObservedService:
    known = {
        "name": "app-echo", "service": "echo", "generation": 1, "observed_generation": 1,
        "replicas": 1, "ready": 1, "conditions": READY,
    }  # fmt: skip
    return ObservedService(**{**known, **fields})


def live(status: dict[str, Any] | None = None, name: str = "app") -> dict[str, Any]:
    return {"metadata": {"name": name, "generation": 7}, "status": status or {}}


def by_type(status: dict[str, Any]) -> dict[str, Any]:
    return {item["type"]: item for item in status["conditions"]}


def true(status: dict[str, Any]) -> dict[str, str]:
    """The conditions that hold, with their reasons."""
    return {t: each["reason"] for t, each in by_type(status).items() if each["status"] == "True"}


@pytest.fixture
def context(case: Callable[..., Any]) -> Any:
    return case({"services": [SERVICE]}).deployment


@pytest.fixture
def service_context(case: Callable[..., Any]) -> Any:
    return case({"services": [SERVICE]}).services[0]


class TestDeployment:
    def test_ready(self, context: Any) -> None:
        observed = Observed(workloads=(workload(),), services=(service(),))
        status = deployment_status(live(), context, observed, [], EARLY)
        assert true(status) == {"Ready": "AllReady"}
        assert [each["type"] for each in status["conditions"]] == list(Condition)
        assert {each["observedGeneration"] for each in status["conditions"]} == {7}
        assert status["endpoints"] == {
            "controlPlane": "http://app-control-plane.team-a.svc:8000",
            "queue": "http://app-control-plane.team-a.svc:8001",
        }
        assert status["services"] == [
            {"name": "echo", "workflowService": "app-echo", "replicas": 1, "readyReplicas": 1,
             "ready": True}
        ]  # fmt: skip
        assert pin_of(status) == context.pin
        DeploymentStatus.model_validate(status)

    def test_not_ready_before_children_are_seen(self, context: Any) -> None:
        status = deployment_status(live(), context, Observed(), [], EARLY)
        assert true(status) == {"Progressing": "RollingOut", "Reconciling": "RollingOut"}
        status = deployment_status(live(), context, Observed((workload(),)), [], EARLY)
        assert by_type(status)["Ready"]["reason"] == "WaitingForServices"

    @pytest.mark.parametrize(
        "late",
        [{"observed_generation": 1}, {"updated": 0}, {"available": 0}, {"replicas": 2}],
    )
    def test_a_rollout_is_progress(self, context: Any, late: dict[str, int]) -> None:
        observed = Observed((workload(**late),), (service(),))
        status = deployment_status(live(), context, observed, [], EARLY)
        assert true(status) == {"Progressing": "RollingOut", "Reconciling": "RollingOut"}

    def test_a_lost_pod_is_a_degradation(self, context: Any) -> None:
        good = Observed((workload(),), (service(),))
        was = deployment_status(live(), context, good, [], EARLY)
        bad = Observed((workload(available=0, ready=0),), (service(),))
        now = deployment_status(live(was), context, bad, [], LATE)
        assert true(now)["Degraded"] == "ReplicasUnavailable"
        still = deployment_status(live(now), context, bad, [], LATE)
        assert still == now
        healed = deployment_status(live(now), context, good, [], LATE)
        assert true(healed) == {"Ready": "AllReady"}

    def test_times_change_with_the_status_alone(self, context: Any) -> None:
        observed = Observed((workload(),), (service(),))
        was = deployment_status(live(), context, observed, [], EARLY)
        now = deployment_status(live(was), context, observed, [], LATE)
        assert now == was
        changed = deployment_status(live(was), context, Observed((workload(),)), [], LATE)
        times = {t: each["lastTransitionTime"] for t, each in by_type(changed).items()}
        assert times["Ready"] == times["Progressing"] == LATE
        assert times["Paused"] == times["Stalled"] == EARLY

    def test_a_bad_spec_stalls_and_forgets_nothing(self, context: Any) -> None:
        was = deployment_status(live(), context, Observed((workload(),), (service(),)), [], EARLY)
        problem = Problem(Reason.INVALID_POD_TEMPLATE, "podTemplate: wrong; drop it", stalled=True)
        now = deployment_status(
            live(was), None, Observed((workload(),), (service(),)), [problem], LATE
        )
        assert true(now) == {"Stalled": "InvalidPodTemplate"}
        assert by_type(now)["Ready"]["reason"] == "InvalidPodTemplate"
        assert now["observedGeneration"] == 7
        assert now["runtime"] == was["runtime"]

    def test_a_passing_problem_is_no_stall(self, context: Any) -> None:
        problem = Problem(Reason.CLUSTER_ERROR, "the API server cannot be reached")
        observed = Observed((workload(),), (service(),))
        status = deployment_status(live(), context, observed, [problem], EARLY)
        assert true(status) == {"Reconciling": "ClusterError"}

    def test_suspended(self, case: Callable[..., Any]) -> None:
        context = case({"suspend": True}).deployment
        status = deployment_status(live(), context, Observed((workload(),)), [], EARLY)
        assert true(status) == {"Ready": "AllReady", "Paused": "Suspended"}

    def test_limits_and_degradation_of_services_show(self, context: Any) -> None:
        conditions = {
            **READY,
            "ScalingLimited": ("True", "DeliveryLimit", "broadcast; set exclusive_mode"),
            "Degraded": ("True", "CrashLoop", "worker ends"),
        }
        observed = Observed((workload(),), (service(conditions=conditions),))
        status = deployment_status(live(), context, observed, [], EARLY)
        assert true(status) == {
            "Ready": "AllReady", "Degraded": "ServiceDegraded", "ScalingLimited": "DeliveryLimit"
        }  # fmt: skip
        assert by_type(status)["ScalingLimited"]["message"] == "echo: broadcast; set exclusive_mode"

    def test_a_stale_service_is_not_ready(self, context: Any) -> None:
        observed = Observed((workload(),), (service(generation=2),))
        status = deployment_status(live(), context, observed, [], EARLY)
        assert by_type(status)["Ready"]["reason"] == "WaitingForServices"

    def test_a_removed_service_drains(self, context: Any) -> None:
        gone = service(name="app-old", service="old", draining=True)
        observed = Observed((workload(),), (service(), gone))
        status = deployment_status(live(), context, observed, [], EARLY)
        assert true(status)["Progressing"] == "DrainingService"
        assert by_type(status)["Ready"]["reason"] == "DrainingService"

    def test_a_removed_service_hides_nothing(self, context: Any) -> None:
        gone = service(name="app-old", service="old", draining=True, conditions={})
        late = service(generation=2)
        for workloads, services, reason in (
            ((workload(updated=0),), (service(), gone), "RollingOut"),
            ((workload(),), (late, gone), "WaitingForServices"),
        ):
            status = deployment_status(live(), context, Observed(workloads, services), [], EARLY)
            progressing = by_type(status)["Progressing"]
            assert progressing["reason"] == reason
            assert progressing["message"].endswith("; old: removed; its tasks are ended first")

    def test_unshared_store_in_a_secret(self, case: Callable[..., Any]) -> None:
        store = {"uriFrom": {"secretKeyRef": {"name": "s", "key": "uri"}}}
        queue = {"type": "redis", "redis": {"url": "redis://host"}}
        spec = {"controlPlane": {"replicas": 2, "stateStore": store}, "messageQueue": queue}
        context = replace(case(spec).deployment, state_store_scheme="sqlite")
        status = deployment_status(live(), context, Observed((workload(),)), [], EARLY)
        assert true(status) == {"Stalled": "StateNotShared"}

    def test_a_volume_that_cannot_be_made(self, context: Any) -> None:
        claim = ObservedClaim("data-app-queue-0", "Pending", "no storage class")
        observed = Observed((workload(),), (service(),), claims=(claim,))
        status = deployment_status(live(), context, observed, [], EARLY)
        assert true(status)["Degraded"] == "VolumePending"


POD_PROBLEMS = [
    (ObservedContainer("worker", waiting="ImagePullBackOff", message="not found"),
     "ImagePullFailed", "not found"),
    (ObservedContainer("worker", waiting="CreateContainerConfigError",
                       message='secret "openai" not found'),
     "MissingSecretOrKey", 'secret "openai" not found'),
    (ObservedContainer("worker", waiting="CrashLoopBackOff", terminated="Error", exit_code=2,
                       restarts=3, message="Error: no module named x"),
     "CrashLoop", "exit code 2: Error: no module named x"),
    (ObservedContainer("worker", terminated="Error", exit_code=1, restarts=2, message="boom"),
     "CrashLoop", "boom"),
    (ObservedContainer("worker", waiting="CrashLoopBackOff", terminated="OOMKilled", restarts=2),
     "CrashLoop", "memory"),
    (ObservedContainer("worker", waiting="RunContainerError", message="exec format error"),
     "ContainerCreateFailed", "exec format error"),
]  # fmt: skip


class TestService:
    @pytest.mark.parametrize(("container", "reason", "text"), POD_PROBLEMS)
    def test_the_pods_own_reason(
        self, service_context: Any, container: ObservedContainer, reason: str, text: str
    ) -> None:
        pod = ObservedPod("p", "Pending", containers=(container,))
        observed = Observed(
            (workload("worker", name="app-echo-worker", available=0, ready=0, pods=(pod,)),)
        )
        status = service_status(live(name="app-echo"), service_context, observed, [], EARLY)
        assert true(status)["Degraded"] == reason
        assert text in by_type(status)["Degraded"]["message"]
        assert by_type(status)["Ready"]["reason"] == reason
        assert true(status)["Progressing"] == "RollingOut"

    def test_unschedulable_and_quota_and_deadline(self, service_context: Any) -> None:
        pod = ObservedPod("p", "Pending", unschedulable="0/3 nodes have memory")
        conditions = {
            "ReplicaFailure": ("True", "FailedCreate", "exceeded quota"),
            "Progressing": ("False", "ProgressDeadlineExceeded", ""),
        }
        observed = Observed(
            (workload("worker", name="app-echo-worker", available=0, pods=(pod,),
                      conditions=conditions),)
        )  # fmt: skip
        status = service_status(live(name="app-echo"), service_context, observed, [], EARLY)
        message = by_type(status)["Degraded"]["message"]
        assert "exceeded quota" in message and "0/3 nodes" in message
        assert by_type(status)["Progressing"]["status"] == "False"
        assert by_type(status)["Progressing"]["reason"] == "ProgressDeadlineExceeded"

    def test_pods_on_their_way_out_do_not_count(self, service_context: Any) -> None:
        old = ObservedPod(
            "old", "Running", current=False,
            containers=(ObservedContainer("worker", waiting="CrashLoopBackOff", restarts=5),),
        )  # fmt: skip
        observed = Observed((workload("worker", name="app-echo-worker", pods=(old,)),))
        status = service_status(live(name="app-echo"), service_context, observed, [], EARLY)
        assert true(status) == {"Ready": "AllReady"}

    def test_scale_fields(self, service_context: Any) -> None:
        observed = Observed((workload("worker", name="app-echo-worker"),))
        status = service_status(live(name="app-echo"), service_context, observed, [], EARLY)
        assert (status["replicas"], status["readyReplicas"], status["allowedReplicas"]) == (1, 1, 1)
        assert status["selector"] == (
            "llamadeploy.io/component=worker,llamadeploy.io/workflowservice=app-echo"
        )
        assert status["serviceName"] == "echo"
        WorkflowServiceStatus.model_validate(status)

    def test_without_its_deployment(self, service_context: Any) -> None:
        orphan = replace(service_context, parent=None)
        status = service_status(live(name="app-echo"), orphan, Observed(), [], EARLY)
        assert true(status) == {"Stalled": "DeploymentNotFound"}
        assert status["selector"]

    def test_the_younger_of_two_namesakes(self, service_context: Any) -> None:
        second = replace(service_context, conflict="first")
        status = service_status(live(name="app-echo"), second, Observed(), [], EARLY)
        assert true(status)["Stalled"] == "NameConflict"

    def test_a_source_that_cannot_be_resolved(self, case: Callable[..., Any]) -> None:
        git = {**SERVICE, "source": {"git": {"url": "https://user:pw@host/x.git"}}}
        context = replace(case({"services": [git]}).services[0], resolution=None)
        waiting = service_status(live(name="app-echo"), context, Observed(), [], EARLY)
        assert true(waiting)["Progressing"] == "ResolvingSource"
        job = ObservedJob("j", failed=True, message="https://user:pw@host/x.git: no branch 'v9'")
        failed = service_status(live(name="app-echo"), context, Observed(jobs=(job,)), [], EARLY)
        assert by_type(failed)["Ready"]["reason"] == "SourceFailed"
        assert "no branch 'v9'" in by_type(failed)["Ready"]["message"]
        assert "pw" not in str(failed)

    def test_more_replicas_than_a_broadcast_allows(self, case: Callable[..., Any]) -> None:
        queue = {"type": "redis", "redis": {"url": "redis://host"}}
        context = case({"messageQueue": queue, "services": [{**SERVICE, "replicas": 3}]})
        status = service_status(
            live(name="app-echo"), context.services[0],
            Observed((workload("worker", name="app-echo-worker"),)), [], EARLY,
        )  # fmt: skip
        assert true(status) == {"Ready": "AllReady", "ScalingLimited": "DeliveryLimit"}
        assert "exclusive_mode: true" in by_type(status)["ScalingLimited"]["message"]
        assert status["allowedReplicas"] == 1


def test_messages_are_bounded_and_without_logins() -> None:
    text = clean("start redis://user:secret@host " + "x" * 5000 + " the end")
    assert len(text) <= 1000 and text.startswith("start") and text.endswith("the end")
    assert "secret" not in text
