"""The built-in autoscaler, on a real API server, with a real control plane on a real Redis."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.control_plane_process import ControlPlaneProcess
from e2e.operator_process import (
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    service,
    settled,
)

Start = Callable[..., OperatorProcess]

AUTOSCALING = {
    "minReplicas": 0,
    "maxReplicas": 4,
    "targetBacklog": 2,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 1}},
}


@pytest.fixture
def redis_plane(tmp_path: Path, own_redis: Any, unique: str) -> Iterator[ControlPlaneProcess]:
    process = ControlPlaneProcess(
        tmp_path,
        LLAMADEPLOY_NAMESPACE=unique,
        LLAMADEPLOY_QUEUE_TYPE="redis",
        LLAMADEPLOY_QUEUE_URL=own_redis.uri,
        LLAMADEPLOY_QUEUE_OPTIONS='{"exclusive_mode": true}',
        LLAMADEPLOY_STATE_STORE_URI=own_redis.uri,
    )
    yield process
    process.stop()


def on_redis(uri: str, **more: Any) -> dict[str, Any]:
    return deployment(
        services=[service("echo", **{"autoscaling": AUTOSCALING, **more})],
        messageQueue={"type": "redis", "redis": {"exclusiveMode": True, "url": uri}},
        controlPlane={"stateStore": {"uri": uri}},
    )


def token_of(space: Namespace) -> str:
    data = eventually(lambda: space.get("secret", "d-internal")["data"], "its token")
    return base64.b64decode(data["api-token"]).decode()


def replicas(space: Namespace) -> tuple[int, int]:
    """Asked for, and of the workers' Deployment."""
    worker = space.get("deployment", "d-echo-worker")["spec"]["replicas"]
    return space.get("wfs", "d-echo")["spec"]["replicas"], worker


def scaled(space: Namespace) -> Any:
    return space.get("wfs", "d-echo")["status"]["autoscaling"]


def tasks(plane: ControlPlaneProcess, number: int) -> list[str]:
    body = {"input": json.dumps({}), "service_id": "echo"}
    made = [plane.ask("POST", "/deployments/d/tasks/create", body) for _ in range(number)]
    return [each["task_id"] for each in made]


def cancel(plane: ControlPlaneProcess, ids: list[str]) -> None:
    for task in ids:
        plane.ask("POST", f"/deployments/d/tasks/{task}/cancel")


def scaling_limited(space: Namespace, reason: str) -> bool:
    return space.condition("wfs", "d-echo", "ScalingLimited")[1] == reason


@pytest.mark.timeout(300)
def test_replicas_follow_the_work(
    space: Namespace,
    start_operator: Start,
    redis_plane: ControlPlaneProcess,
    own_redis: Any,
    api_server: Any,
) -> None:
    plane, audit = redis_plane, api_server.audit
    audit.mark()
    operator = start_operator(
        "--namespace", space.name, "--control-plane-url-template", plane.url
    )  # fmt: skip
    operator.wait_working()
    space.create("ldep", on_redis(own_redis.uri))
    plane.start_with(token_of(space))

    # No work: to zero, and known to the control plane although no worker ever ran.
    eventually(lambda: replicas(space) == (0, 0), "it goes to zero")
    assert [each["service_name"] for each in plane.ask("GET", "/deployments/d/services")] == [
        "echo"
    ]
    assert space.get("wfs", "d-echo", "scale")["status"]["selector"]

    # Work: at once.
    began = time.monotonic()
    made = tasks(plane, 1)
    eventually(lambda: replicas(space)[1] > 0, "the first worker", step=0.005)
    print(f"the first task of a service at zero: a pod is asked for after "
          f"{time.monotonic() - began:.2f} s")  # fmt: skip
    made += tasks(plane, 4)
    eventually(lambda: replicas(space) == (3, 3), "as many as the work needs")
    eventually(lambda: scaled(space)["desiredReplicas"] == 3, "the status says so")
    assert scaled(space)["reason"] == "ScaledUp"
    assert operator.metric("llamadeploy_autoscaler_desired_replicas") == 3
    # Kubernetes books the manager of a scale only where somebody held the field before.
    written = audit.writes(user="operator", namespace=space.name)
    assert ("patch", "workflowservices/scale") in written
    events = [each for each in space.list("event") if each["reason"] == "ScaledUp"]
    assert "ask for" in events[-1]["message"]

    # More than there may be: said.
    more = tasks(plane, 10)
    eventually(lambda: replicas(space) == (4, 4), "as many as there may be")
    eventually(lambda: scaling_limited(space, "TooManyReplicas"), "it says so")

    # Steady: no write, although tasks come and go.
    def calm() -> bool:
        audit.mark()
        cancel(plane, more[:1])
        del more[0]
        time.sleep(1.2)  # longer than the pace of its questions
        return not audit.writes(user="operator", namespace=space.name)

    eventually(calm, "nothing is written")

    # The control plane is away: held, and said; and so is the queue.
    plane.stop()
    eventually(lambda: scaling_limited(space, "MetricUnavailable"), "it says so")
    assert scaled(space)["reason"] == "MetricUnavailable"
    assert replicas(space) == (4, 4)
    cancelled = more
    plane.start()
    eventually(plane.answers, "it answers again")
    eventually(lambda: not scaling_limited(space, "MetricUnavailable"), "it is known again", 60)
    assert replicas(space) == (4, 4)

    # By hand: brought back.
    space.patch("wfs", "d-echo", {"spec": {"replicas": 1}}, "scale")
    eventually(lambda: replicas(space) == (4, 4), "brought back")

    # Suspended: the number stays, nobody works.
    space.patch("ldep", "d", {"spec": {"suspend": True}})
    eventually(lambda: replicas(space) == (4, 0), "suspended")
    cancel(plane, made + cancelled)
    space.patch("ldep", "d", {"spec": {"suspend": False}})
    eventually(lambda: replicas(space) == (0, 0), "no work, to zero", 60)
    assert scaling_limited(space, "NotLimited")


def test_what_the_delivery_table_does_not_allow(space: Namespace, start_operator: Start) -> None:
    """And a schedule that cannot be understood."""
    start_operator("--namespace", space.name, "--control-plane-url-template", "http://127.0.0.1:1")
    space.create("ldep", deployment(services=[service("echo", autoscaling=AUTOSCALING)]))
    eventually(lambda: scaling_limited(space, "DeliveryLimit"), "simple does not go to zero")
    message = space.condition("wfs", "d-echo", "ScalingLimited")[2]
    assert "write minReplicas: 1, or use redis with exclusiveMode: true" in message
    assert (scaled(space)["minReplicas"], scaled(space)["maxReplicas"]) == (1, 4)
    eventually(lambda: space.condition("ldep", "d", "ScalingLimited")[1] == "DeliveryLimit", "so")
    bad = {"start": "0 8 * * FOO", "end": "0 18 * * *", "minReplicas": 1}
    services = [service("echo", autoscaling={**AUTOSCALING, "schedules": [bad]})]
    space.patch("ldep", "d", {"spec": {"services": services}})
    eventually(lambda: space.condition("wfs", "d-echo", "Stalled")[1] == "InvalidSpec", "stalled")
    text = space.condition("wfs", "d-echo", "Stalled")[2]
    assert "autoscaling.schedules[0].start: '0 8 * * FOO' is no cron expression" in text


def test_a_number_that_was_named_is_handed_to_the_autoscaler(
    space: Namespace,
    start_operator: Start,
    redis_plane: ControlPlaneProcess,
    own_redis: Any,
) -> None:
    start_operator("--namespace", space.name, "--control-plane-url-template", redis_plane.url)
    space.create("ldep", on_redis(own_redis.uri, autoscaling=None, replicas=4))
    eventually(lambda: replicas(space) == (4, 4), "as named")
    held = {**AUTOSCALING, "behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}
    space.patch("ldep", "d", {"spec": {"services": [service("echo", autoscaling=held)]}})
    redis_plane.start_with(token_of(space))
    eventually(lambda: "desiredReplicas" in scaled(space), "the autoscaler has looked")
    assert replicas(space) == (4, 4), "what ran goes on"
    space.patch("ldep", "d", {"spec": {"services": [service("echo", replicas=2)]}})
    eventually(lambda: replicas(space) == (2, 2), "as named again")
    assert "autoscaling" not in space.evaluated("wfs", "d-echo")["status"]


def test_control_planes_are_scaled_by_whoever_does(
    space: Namespace, operator: OperatorProcess
) -> None:
    """As a HorizontalPodAutoscaler does, by the scale subresource, where no number is named."""
    managed: dict[str, Any] = {"managed": {}}
    space.create(
        "ldep",
        deployment(
            messageQueue={"type": "redis", "redis": {"exclusiveMode": True}, **managed},
            controlPlane={"stateStore": managed},
        ),
    )
    both = ("d-control-plane", "d-orchestrator")

    def running() -> list[int]:
        return [space.get("deployment", name)["spec"]["replicas"] for name in both]

    eventually(lambda: running() == [1, 1], "one of each")
    for name in both:
        scale = space.get("deployment", name, "scale")
        assert scale["status"]["selector"]
        space.patch("deployment", name, {"spec": {"replicas": 3}}, "scale")
    eventually(lambda: set(both) <= space.names("pdb"), "they have budgets")
    settled(space, operator)
    assert running() == [3, 3]
    # Named: so many. Left out again: what there is stays.
    space.patch("ldep", "d", {"spec": {"controlPlane": {"replicas": 2}}})
    eventually(lambda: running() == [2, 3], "as named")
    space.patch("ldep", "d", {"spec": {"controlPlane": {"replicas": None}}})
    space.evaluated("ldep", "d")
    settled(space, operator)
    assert running() == [2, 3]
    space.patch("deployment", both[0], {"spec": {"replicas": 4}}, "scale")
    settled(space, operator)
    assert running() == [4, 3]
