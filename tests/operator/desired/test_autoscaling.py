"""What ``autoscaling`` comes to: bounds, rules, KEDA's objects, and what the status says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llamadeploy_operator.autoscaling import DEFAULT_SCALE_DOWN, DEFAULT_SCALE_UP, RatePolicy
from llamadeploy_operator.cluster.autoscaler import service_definition, target_of
from llamadeploy_operator.cluster.scale_in import in_flight_by_pod
from llamadeploy_operator.desired import Capabilities, Scaled, autoscaled, scaling, service_children
from llamadeploy_operator.errors import SpecError
from llamadeploy_operator.observed import Observed
from llamadeploy_operator.status import service_status

QUEUES = {
    "simple": {"type": "simple"},
    "broadcast": {"type": "redis", "redis": {}, "managed": {}},
    "redis": {"type": "redis", "redis": {"exclusiveMode": True}, "managed": {}},
    "rabbitmq": {"type": "rabbitmq", "managed": {}},
}
AUTOSCALING = {"minReplicas": 0, "maxReplicas": 5, "targetBacklog": 4}


@pytest.fixture
def context(case: Callable[..., Any]) -> Callable[..., Any]:
    """A service's context, by queue, with more of ``autoscaling``."""

    def make(queue: str = "redis", suspend: bool = False, **more: Any) -> Any:
        fields = {"maxConcurrentTasks": 6, "maxRetries": 1}
        spec = {**AUTOSCALING, **more}
        service = {
            "name": "echo", "source": {"configMap": {"name": "code"}}, "path": "echo:workflow",
            "autoscaling": {key: value for key, value in spec.items() if value is not None},
        }  # fmt: skip
        found = case(
            {"messageQueue": QUEUES[queue], "services": [service | fields], "suspend": suspend}
        )
        return found.services[0]

    return make


@pytest.mark.parametrize(
    ("queue", "bounds", "cure"),
    [
        ("simple", (1, 5), "write minReplicas: 1, or use redis with exclusiveMode: true"),
        ("broadcast", (1, 1), "set exclusive_mode: true"),
        ("redis", (0, 5), None),
        ("rabbitmq", (0, 5), None),
    ],
)
def test_bounds_are_those_of_the_delivery_table(
    context: Any, queue: str, bounds: tuple[int, int], cure: str | None
) -> None:
    found = autoscaled(context(queue))
    assert (found.policy.min_replicas, found.policy.max_replicas) == bounds
    limited = scaling(context(queue)).limited
    assert limited is None if cure is None else cure in limited
    assert scaling(context(queue, minReplicas=1, maxReplicas=1)).limited is None


def test_rules_have_the_defaults_of_what_is_left_out(context: Any) -> None:
    policy = autoscaled(context(minReplicas=None)).policy
    assert (policy.min_replicas, policy.target_backlog, policy.tasks_per_replica) == (1, 4, 6)
    assert (policy.scale_up, policy.scale_down) == (DEFAULT_SCALE_UP, DEFAULT_SCALE_DOWN)
    behavior = {
        "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 30}],
                    "selectPolicy": "Min", "tolerance": 0},
        "scaleDown": {"stabilizationWindowSeconds": 0},
    }  # fmt: skip
    policy = autoscaled(context(behavior=behavior)).policy
    assert policy.scale_up.policies == (RatePolicy("Pods", 2, 30),)
    assert (policy.scale_up.select, policy.scale_up.tolerance) == ("Min", 0)
    assert policy.scale_down == replace(DEFAULT_SCALE_DOWN, stabilization_seconds=0.0)


def test_a_schedule_is_in_utc_unless_it_says_otherwise_and_is_checked(context: Any) -> None:
    schedule = {"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}
    (floor,) = autoscaled(context(schedules=[schedule])).policy.floors
    assert (floor.time_zone, floor.min_replicas) == ("UTC", 2)
    nowhere = {**schedule, "timeZone": "Europe/Atlantis"}
    with pytest.raises(SpecError, match=r"autoscaling\.schedules\[1\]\.timeZone: .*IANA"):
        autoscaled(context(schedules=[schedule, nowhere]))


def test_what_is_followed(context: Any) -> None:
    target = target_of(context())
    assert target.policy == autoscaled(context()).policy
    assert target.service == service_definition(context())
    assert target.service.options.max_retries == 1
    # KEDA's, and suspended ones, are only kept known.
    assert target_of(context(engine="keda")).policy is None
    assert target_of(context(suspend=True)).policy is None
    assert target_of(replace(context(), conflict="other")) is None
    assert target_of(replace(context(), parent=None)) is None


def keda(context: Any) -> dict[str, Any]:
    there = replace(context, capabilities=Capabilities(keda=True))
    return {each["kind"]: each for each in service_children(there)}


def test_keda_keeps_the_last_worker_while_it_works(context: Any) -> None:
    """A target of time says nothing of what is in work: a second trigger does."""
    found = keda(context(engine="keda", targetBacklog=None, targetWaitSeconds=2.5))
    spec = found["ScaledObject"]["spec"]
    metrics = [
        (each["metricType"], each["metadata"]["valueLocation"], each["metadata"]["targetValue"])
        for each in spec["triggers"]
    ]
    assert metrics == [
        ("Value", "oldest_seconds", "2.5"), ("AverageValue", "backlog", "1000000000")
    ]  # fmt: skip
    assert "advanced" not in spec
    assert "annotations" not in found["ScaledObject"]["metadata"]


def test_keda_has_nothing_of_what_is_not_its_own(context: Any) -> None:
    kinds = {"ScaledObject", "TriggerAuthentication"}
    assert not kinds & set(keda(context()))
    assert kinds <= set(keda(context(engine="keda")))
    assert not kinds & {each["kind"] for each in service_children(context(engine="keda"))}
    paused = keda(context(engine="keda", suspend=True))["ScaledObject"]
    assert paused["metadata"]["annotations"] == {"autoscaling.keda.sh/paused": "true"}


def status_of(context: Any, former: dict[str, Any] | None = None) -> Any:
    live = {"metadata": {"name": "app-echo", "generation": 1}, "status": former or {}}
    status = service_status(live, context, Observed(), [], "2026-01-01T00:00:00Z")
    limited = next(each for each in status["conditions"] if each["type"] == "ScalingLimited")
    return status, limited["reason"], limited["message"]


def test_the_status_says_what_was_decided_and_why(context: Any) -> None:
    up = Scaled(3, "ScaledUp", "12 ready tasks ask for 3")
    status, reason, _ = status_of(replace(context(), scaled=up))
    assert reason == "NotLimited"
    assert status["autoscaling"] == {
        "engine": "operator", "minReplicas": 0, "maxReplicas": 5,
        "desiredReplicas": 3, "reason": "ScaledUp", "message": "12 ready tasks ask for 3",
    }  # fmt: skip
    # A new leader has decided nothing yet.
    assert status_of(context(), status)[0]["autoscaling"] == status["autoscaling"]
    held = replace(up, reason="MetricUnavailable", unavailable="it answered 503")
    _, reason, message = status_of(replace(context(), scaled=held))
    assert reason == "MetricUnavailable"
    assert message == "it answered 503; 3 replicas stay until the work is known again"
    _, reason, message = status_of(replace(context(), scaled=replace(up, capped=True)))
    assert (reason, "raise autoscaling.maxReplicas" in message) == ("TooManyReplicas", True)
    assert status_of(replace(context(suspend=True), scaled=held))[1] == "NotLimited"
    assert status_of(context(engine="keda"))[1] == "KedaNotInstalled"


def test_workers_are_told_from_their_pods() -> None:
    found = in_flight_by_pod([("d-echo-worker-6b7-x2x4z-0123abcd", 2), ("odd", 1)])
    assert found == {"d-echo-worker-6b7-x2x4z": 2, "odd": 1}
