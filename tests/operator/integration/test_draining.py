"""Removed services, on a real API server and with a real control plane."""

from __future__ import annotations

import base64
from collections.abc import Callable

from e2e.control_plane_process import ControlPlaneProcess
from e2e.operator_process import (
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    service,
)
from llamadeploy_operator import names

Start = Callable[..., OperatorProcess]


def looked(operator: OperatorProcess, times: int = 6) -> None:
    done = operator.reconciled()
    eventually(lambda: operator.reconciled() >= done + times, "it looks again", 60)


def draining(space: Namespace) -> bool:
    return "old: removed; its tasks" in space.condition("ldep", "d", "Progressing")[2]


def start_pod(space: Namespace) -> bool:
    """Say of the control plane's pod what a node would: before that a rollout is what the status
    tells of."""
    for pod in space.list("pod"):
        if pod["metadata"]["name"].startswith("d-control-plane-"):
            ready = {"type": "Ready", "status": "True"}
            status = {"phase": "Running", "conditions": [ready]}
            space.patch("pod", pod["metadata"]["name"], {"status": status}, "status")
            return True
    return False


def annotated(space: Namespace) -> bool:
    found = space.get("wfs", "d-old")["metadata"].get("annotations") or {}
    return names.REMOVED_ANNOTATION in found


def token_of(space: Namespace) -> str:
    data = space.get("secret", "d-internal")["data"]
    return base64.b64decode(data["api-token"]).decode()


def test_a_removed_service_drains_and_its_time_is_limited(
    space: Namespace, start_operator: Start, control_plane: ControlPlaneProcess
) -> None:
    arguments = (
        "--namespace", space.name, "--resync-seconds", "0.25",
        "--control-plane-url-template", control_plane.url,
    )  # fmt: skip
    operator = start_operator(*arguments)
    operator.wait_working()
    both, one = [service("echo"), service("old")], [service("echo")]
    space.create("ldep", deployment(services=both))
    eventually(lambda: "d-old-worker" in space.names("deployment"), "the worker is there")
    uid = space.get("wfs", "d-old")["metadata"]["uid"]
    eventually(lambda: start_pod(space), "the control plane's pod is there")

    # Unreachable: held.
    space.patch("ldep", "d", {"spec": {"services": one}})
    eventually(lambda: draining(space), "it drains")
    looked(operator)
    assert annotated(space)
    assert "service old was removed and is kept" in operator.tail()
    control_plane.start_with(token_of(space))
    # Nothing there: gone.
    eventually(lambda: "d-old" not in space.names("wfs"), "it goes")
    eventually(lambda: not draining(space), "that is told no more")

    # Removed with a task, and put back: it goes on.
    space.patch("ldep", "d", {"spec": {"services": both}})
    made = eventually(lambda: space.find("wfs", "d-old"), "it is there again")
    assert made["metadata"]["uid"] != uid
    _, task = control_plane.task("old")
    space.patch("ldep", "d", {"spec": {"services": one}})
    eventually(lambda: draining(space) and annotated(space), "it drains")
    space.patch("ldep", "d", {"spec": {"services": both}})
    eventually(lambda: not annotated(space) and not draining(space), "it goes on")
    assert space.get("wfs", "d-old")["metadata"]["uid"] == made["metadata"]["uid"]
    control_plane.create("old")

    # Removed with a task: it stays until that has ended.
    space.patch("ldep", "d", {"spec": {"services": one}})
    eventually(lambda: draining(space) and annotated(space), "it drains")
    looked(operator)
    assert "d-old-worker" in space.names("deployment")
    assert control_plane.status(task)["state"] == "queued"
    # What it has it keeps, and it takes no more, from nobody; other services do.
    eventually(lambda: "was removed from deployment" in control_plane.refused("old"), "refused")
    control_plane.task("echo")
    for each in control_plane.unfinished("old"):
        control_plane.ask("POST", f"/sessions/{each['session_id']}/tasks/{each['task_id']}/cancel")
    eventually(lambda: "d-old" not in space.names("wfs"), "it goes")
    assert set(control_plane.ask("GET", "/services")) == {"echo"}

    # The limit holds across a restart of the operator, and ends the task with an error.
    space.patch("ldep", "d", {"spec": {"services": both}})
    eventually(lambda: space.find("wfs", "d-old"), "it is there again")
    _, task = control_plane.task("old")
    _, other = control_plane.task("echo")
    space.patch("ldep", "d", {"spec": {"services": one}})
    eventually(lambda: draining(space) and annotated(space), "it drains")
    operator.stop()
    assert control_plane.status(task)["state"] == "queued"
    start_operator(*arguments, "--drain-seconds", "1").wait_working()
    eventually(lambda: "d-old" not in space.names("wfs"), "it goes")
    assert control_plane.status(task)["state"] == "cancelled"
    assert control_plane.status(other)["state"] == "queued"


def test_a_service_that_goes_on_under_another_resource_keeps_its_tasks(
    space: Namespace, start_operator: Start, control_plane: ControlPlaneProcess
) -> None:
    operator = start_operator(
        "--namespace", space.name, "--resync-seconds", "0.25",
        "--control-plane-url-template", control_plane.url,
    )  # fmt: skip
    operator.wait_working()
    space.create("ldep", deployment(services=[service("echo"), service("old")]))
    eventually(lambda: "d-old-worker" in space.names("deployment"), "the worker is there")
    control_plane.start_with(token_of(space))
    _, task = control_plane.task("old")
    own = {key: value for key, value in service("old").items() if key != "name"}
    spec = {"deploymentRef": {"name": "d"}, "serviceName": "old", **own}
    space.create(
        "wfs",
        {
            "apiVersion": "llamadeploy.io/v1alpha1",
            "kind": "WorkflowService",
            "metadata": {"name": "moved"},
            "spec": spec,
        },
    )
    space.patch("ldep", "d", {"spec": {"services": [service("echo")]}})
    eventually(lambda: "d-old" not in space.names("wfs"), "the former goes")
    eventually(lambda: "moved-worker" in space.names("deployment"), "the other one works")
    looked(operator)
    assert control_plane.status(task)["state"] == "queued"
