"""Changes under load: no task fails, none is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.client_pod import ClientPod
from e2e.manifests import code, deployment, managed_redis
from e2e.operator_process import Json, eventually
from e2e.space import Space

Client = Callable[[str], ClientPod]
SECRET = {"metadata": {"name": "settings"}, "stringData": {"greeting": "one"}}


def shop(image: str | None = None) -> Json:
    """Two of everything."""
    settings = managed_redis()
    settings["controlPlane"]["replicas"] = 2
    settings["orchestrator"] = {"replicas": 2}
    secret = {"secretKeyRef": {"name": "settings", "key": "greeting"}}
    body = deployment("shop", **settings)
    (work,) = body["spec"]["services"]
    work["env"] = [{"name": "GREETING", "valueFrom": secret}]
    if image is not None:
        overlay = {"spec": {"containers": [{"name": "worker", "image": image}]}}
        work["podTemplate"] = overlay
    return body


def names(space: Space, component: str) -> set[str]:
    """Of the pods that are to stay."""
    return {pod["metadata"]["name"] for pod in space.pods(component=component)}


def replaced(space: Space, former: set[str], component: str) -> bool:
    """Whether none of them is left, and as many others are ready."""
    pods = space.list("pod")
    mine = [
        pod for pod in pods
        if pod["metadata"]["labels"].get("llamadeploy.io/component") == component
    ]  # fmt: skip
    now = {pod["metadata"]["name"] for pod in mine}
    return not former & now and len(now) == len(former) and all(map(is_ready, mine))


def is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


@pytest.fixture
def user(space: Space, client: Client) -> ClientPod:
    """Of a Deployment ``shop`` that is ready."""
    space.create("secret", SECRET)
    space.apply(code("code", "v1"), shop())
    space.wait_ready("shop", seconds=300)
    return client("shop")


def test_code_secret_and_image_change_under_load(
    space: Space, user: ClientPod, provider_other_tag: Callable[[], str]
) -> None:
    load = user.load("work", 6)
    load.passes(30)

    def change(what: str, do: Callable[[], object]) -> None:
        former = names(space, "worker")
        do()
        eventually(lambda: replaced(space, former, "worker"), f"{what}: workers roll", 300, 0.3)
        load.passes(30)

    change("code", lambda: space.apply(code("code", "v2")))
    change("secret", lambda: space.patch("secret", "settings", {"stringData": {"greeting": "2"}}))
    other = provider_other_tag()
    change("image", lambda: space.apply(shop(other)))
    report = load.stop()
    assert set(report["results"]) == {"v1", "v2"}, report
    assert not report["broken"], "the workers' rollouts are nothing that clients notice"


def test_control_plane_and_orchestrator_roll_under_load(space: Space, user: ClientPod) -> None:
    """As ``kubectl rollout restart`` would, by a change of their templates."""
    load = user.load("work", 6)
    load.passes(30)
    former = {name: names(space, name) for name in ("control-plane", "orchestrator")}
    body = shop()
    overlay = {"metadata": {"annotations": {"rolled": "once"}}}
    for part in ("controlPlane", "orchestrator"):
        body["spec"][part]["podTemplate"] = overlay
    space.apply(body)
    for component, pods in former.items():
        eventually(
            lambda pods=pods, component=component: replaced(space, pods, component),
            f"{component}s roll", 300, 0.3,
        )  # fmt: skip
    load.passes(30)
    # A control plane that stops closes idle connections; a request that is just being sent on one
    # is repeated by the client, under its idempotency key.
    load.stop()
