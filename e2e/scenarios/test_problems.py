"""What a person sees in status when something is wrong, and that it heals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from e2e.client_pod import ClientPod
from e2e.manifests import code, deployment
from e2e.operator_process import eventually
from e2e.space import Space

Client = Callable[[str], ClientPod]


def work(**more: Any) -> list[dict[str, Any]]:
    item = {"name": "work", "source": {"configMap": {"name": "code"}}, "path": "workflow:flow"}
    return [{**item, **more}]


def test_bad_image_missing_secret_and_crash_loop(space: Space, client: Client) -> None:
    overlay = {"spec": {"containers": [{"name": "worker", "image": "localhost/no-such-image:1"}]}}
    missing = {"secretKeyRef": {"name": "absent", "key": "token"}}
    broken = code("broken", "v1")
    broken["data"]["workflow.py"] = "raise SystemExit('no licence')\n"
    services = [
        *work(name="image", podTemplate=overlay),
        *work(name="secret", env=[{"name": "TOKEN", "valueFrom": missing}]),
        *work(name="crash", source={"configMap": {"name": "broken"}}),
        *work(),
    ]
    space.apply(code("code", "v1"), broken, deployment("shop", services=services))
    expected = {
        "image": ("ImagePullFailed", "localhost/no-such-image:1"),
        "secret": ("MissingSecretOrKey", "absent"),
        "crash": ("CrashLoop", "no licence"),
    }
    for name, (reason, words) in expected.items():
        message = space.wait_condition("wfs", f"shop-{name}", "Degraded", reason, 180)
        assert words in message, message
    space.wait_ready("shop-work", "wfs")
    space.wait_condition("ldep", "shop", "Degraded", "ServiceDegraded")
    # The services that are well work.
    assert client("shop").task(n="7") == "v1 7"
    # What was wrong is made right, one thing each.
    space.create("secret", {"metadata": {"name": "absent"}, "stringData": {"token": "x"}})
    space.apply(code("broken", "v2"))
    services[0].pop("podTemplate")
    space.apply(deployment("shop", services=services))
    space.wait_ready("shop", seconds=240)
    status, _, message = space.condition("ldep", "shop", "Degraded")
    assert status == "False", message


def test_restricted_is_enforced(space: Space) -> None:
    """The namespace refuses what is not restricted, and says so in status: the others show that
    nothing of ours is refused."""
    overlay = {"spec": {"securityContext": {"runAsNonRoot": False, "runAsUser": 0}}}
    space.apply(code("code", "v1"), deployment("shop", services=work(podTemplate=overlay)))
    message = space.wait_condition("wfs", "shop-work", "Degraded", "PodsRefused")
    assert "runAsNonRoot" in message, message
    space.apply(deployment("shop", services=work()))
    eventually(
        lambda: space.condition("wfs", "shop-work", "Degraded")[0] == "False", "it heals", 120
    )
