"""A new release of the operator: what runs goes on as it is until somebody asks for the new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from e2e.operator_process import (
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    service,
    settled,
)

WORKLOADS = ("deployment", "statefulset")
Start = Callable[..., OperatorProcess]


def templates(space: Namespace) -> dict[str, tuple[int, Any]]:
    """Workload -> generation and pod template; each change of the latter rolls its pods."""
    return {
        item["metadata"]["name"]: (item["metadata"]["generation"], item["spec"]["template"])
        for kind in WORKLOADS
        for item in space.list(kind)
    }


def images(space: Namespace, name: str) -> set[str]:
    """Of a workload's containers."""
    spec = space.get("deployment", name)["spec"]["template"]["spec"]
    return {item["image"] for item in [*spec["containers"], *spec.get("initContainers", [])]}


def test_an_upgrade_changes_no_pod_template_until_it_is_asked_for(
    space: Namespace, start_operator: Start
) -> None:
    def release(number: int, *more: str) -> OperatorProcess:
        process = start_operator(
            "--namespace", space.name, "--resync-seconds", "0.25",
            "--runtime-image", f"example/runtime:{number}",
            "--redis-image", f"example/redis:{number}",
            "--ui-image", f"example/node:{number}", *more,
        )  # fmt: skip
        process.wait_working()
        return process

    first = release(1)
    code = {"configMap": {"name": "code"}}
    full = deployment(
        "full",
        services=[service("echo"), service("other")],
        messageQueue={"type": "redis", "redis": {"exclusiveMode": True}, "managed": {}},
        controlPlane={"stateStore": {"managed": {}}},
        ui={"name": "ui", "source": code},
    )
    space.create("ldep", full)
    space.create("ldep", deployment("plain"))
    eventually(
        lambda: (
            {"full-echo-worker", "full-ui", "full-queue", "plain-echo-worker"}
            <= set(templates(space))
        ),
        "all workloads are there",
    )
    settled(space, first)
    before = templates(space)
    first.stop()

    second = release(2)
    settled(space, second)
    assert templates(space) == before

    # Asked for: each workload of that Deployment changes once, and those of others do not. What
    # holds data keeps its own release.
    space.patch("ldep", "full", {"spec": {"version": "7"}})
    eventually(lambda: images(space, "full-echo-worker") == {"example/runtime:7"}, "it moves")
    settled(space, second)
    asked = templates(space)
    for name, (generation, template) in before.items():
        moved = name.startswith("full-") and template["spec"]["containers"][0]["image"].startswith(
            "example/runtime"
        )
        if moved:
            assert asked[name][0] == generation + 1, name
        elif name != "full-ui":
            assert asked[name] == (generation, template), name
    second.stop()

    # Auto: those that name no version move, once.
    third = release(3, "--runtime-upgrade", "Auto")
    eventually(lambda: images(space, "plain-echo-worker") == {"example/runtime:3"}, "it moves")
    settled(space, third)
    auto = templates(space)
    for name in ("plain-control-plane", "plain-echo-worker"):
        assert auto[name][0] == asked[name][0] + 1
    assert images(space, "full-echo-worker") == {"example/runtime:7"}
    assert auto["full-queue"] == before["full-queue"]


def test_a_job_that_did_not_succeed_is_made_anew_for_other_settings(
    space: Namespace, start_operator: Start
) -> None:
    scope = ("--namespace", space.name, "--resync-seconds", "0.25")
    first = start_operator(*scope)
    first.wait_working()
    source = {"git": {"url": "https://example.com/r.git"}}
    space.create("ldep", deployment(services=[service("echo", source=source)]))
    job = eventually(lambda: space.list("job"), "a resolver Job")[0]
    settled(space, first)
    assert space.list("job")[0]["metadata"]["uid"] == job["metadata"]["uid"]
    first.stop()

    second = start_operator(*scope, "--https-proxy", "http://proxy.example:3128")
    second.wait_working()

    def proxies() -> list[str]:
        return [
            item["value"]
            for found in space.list("job")
            for item in found["spec"]["template"]["spec"]["containers"][0]["env"]
            if item["name"] == "HTTPS_PROXY"
        ]

    eventually(lambda: proxies() == ["http://proxy.example:3128"], "the Job has the proxy")
    settled(space, second)
    assert space.names("job") == {job["metadata"]["name"]}
    assert space.condition("wfs", "d-echo", "Stalled")[0] == "False"
