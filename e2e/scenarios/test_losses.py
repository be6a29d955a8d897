"""Containers killed and pods deleted under load: no task fails, none is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from e2e.client_pod import ClientPod
from e2e.cluster.api import ApiRefusedError
from e2e.manifests import code, deployment, managed_redis
from e2e.operator_process import Json, eventually
from e2e.providers.base import Provider
from e2e.space import Space, restarted

Client = Callable[[str], ClientPod]
COMPONENTS = ("worker", "control-plane", "orchestrator", "queue", "state-store")


@pytest.fixture
def user(space: Space, client: Client) -> ClientPod:
    """Of a Deployment ``shop`` with two of everything that there can be two of."""
    settings: dict[str, Any] = managed_redis()
    settings["controlPlane"]["replicas"] = 2
    settings["orchestrator"] = {"replicas": 2}
    space.apply(code("code", "v1"), deployment("shop", **settings))
    space.wait_ready("shop", seconds=300)
    return client("shop")


def test_every_container_is_killed(space: Space, user: ClientPod, provider: Provider) -> None:
    load = user.load("work", 6)
    load.passes(20)
    for component in COMPONENTS:
        pod = space.pods(component=component)[0]
        name = pod["metadata"]["name"]
        (state,) = pod["status"]["containerStatuses"]
        try:
            provider.kill(state["containerID"])
        except NotImplementedError as error:
            load.stop()
            pytest.skip(str(error))
        eventually(lambda: restarted(space, name, state), f"{name} is restarted", 180, 0.2)  # noqa: B023
        load.passes(20)
    report = load.stop()
    assert set(report["results"]) == {"v1"}


def test_every_pod_is_deleted(space: Space, user: ClientPod) -> None:
    load = user.load("work", 6)
    load.passes(20)
    for component in COMPONENTS:
        pod = space.pods(component=component)[0]["metadata"]
        space.delete("pod", pod["name"])
        eventually(
            lambda: all_ready(space, component) and not still(space, pod),  # noqa: B023
            f"{component} is complete again", 240, 0.2,
        )  # fmt: skip
        load.passes(20)
    report = load.stop()
    assert set(report["results"]) == {"v1"}


def all_ready(space: Space, component: str) -> bool:
    pods = space.pods(component=component)
    wanted = 1 if component in ("queue", "state-store") else 2
    ready = [
        pod for pod in pods
        for item in pod["status"].get("conditions", [])
        if item["type"] == "Ready" and item["status"] == "True"
    ]  # fmt: skip
    return len(ready) == len(pods) == wanted


def still(space: Space, pod: Json) -> bool:
    found = space.find("pod", pod["name"])
    return found is not None and found["metadata"]["uid"] == pod["uid"]


def test_eviction_takes_one_at_a_time(space: Space, user: ClientPod) -> None:
    """As a node's drain does: the budget refuses the second one while the first is away."""
    load = user.load("work", 4)
    load.passes(10)
    first, second = (pod["metadata"] for pod in space.pods(component="control-plane"))
    evict(space, first["name"])
    with pytest.raises(ApiRefusedError) as caught:
        evict(space, second["name"])
    assert caught.value.status == 429, caught.value
    eventually(lambda: all_ready(space, "control-plane") and not still(space, first), "back", 180)
    evict(space, second["name"])
    eventually(lambda: all_ready(space, "control-plane") and not still(space, second), "back", 180)
    # A broker has no budget, which would only nail it to its node.
    evict(space, space.pods(component="queue")[0]["metadata"]["name"])
    load.passes(10, 240)
    load.stop()


def evict(space: Space, name: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    space.api.request("POST", space.path("pod", name, "eviction"), body)
