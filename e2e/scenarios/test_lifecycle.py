"""Deleting, keeping, upgrading the operator, uninstalling it."""

from __future__ import annotations

from collections.abc import Callable

from e2e.client_pod import ClientPod
from e2e.helm import CRDS, OPERATOR, SYSTEM, Helm
from e2e.manifests import code, deployment, managed_redis
from e2e.operator_process import Json, eventually
from e2e.space import Space, left

Client = Callable[[str], ClientPod]


def test_delete_leaves_nothing_or_what_is_to_be_kept(space: Space, client: Client) -> None:
    space.apply(code("code", "v1"), deployment("shop", deletionPolicy="Retain", **managed_redis()))
    user = client("shop")
    space.wait_ready("shop", seconds=300)
    task = user.start("work", "-a", "n", "1")
    eventually(lambda: user.state(task) == "succeeded", "the task ends", 60, 1)
    token = space.secret_value("shop-internal", "api-token")
    space.delete("ldep", "shop")
    eventually(lambda: set(left(space)) == {"secret", "pvc"}, "the rest is gone", 120, 0.5)
    kept = left(space)
    assert kept["secret"] == {"shop-internal"}, kept
    assert len(kept["pvc"]) == 2, kept
    # One of the same name finds them again, with the task's result.
    space.apply(deployment("shop", **managed_redis()))
    space.wait_ready("shop", seconds=300)
    assert space.secret_value("shop-internal", "api-token") == token
    assert user.state(task) == "succeeded"
    space.delete("ldep", "shop")
    eventually(lambda: not left(space), "nothing is left", 120, 0.5)


def test_operator_upgrade_rolls_nothing(
    space: Space, client: Client, helm: Helm, operator: Json, provider_other_tag: Callable[[], str]
) -> None:
    """From one build to another and back: the operator's pods are replaced, no others."""
    space.apply(code("code", "v1"), deployment("shop", **managed_redis()))
    user = client("shop")
    space.wait_ready("shop", seconds=300)
    before = {pod["metadata"]["name"] for pod in space.list("pod")}
    load = user.load("work", 2)
    load.passes(5)
    repository, _, tag = provider_other_tag().rpartition(":")
    image = {**operator["image"], "repository": repository, "tag": tag}
    helm.upgrade(OPERATOR, {**operator, "image": image})
    try:
        system = Space(space.api, SYSTEM, space.image)
        images = {pod["spec"]["containers"][0]["image"] for pod in system.pods()}
        assert images == {f"{repository}:{tag}"}
        # It works: a new Deployment is carried out.
        space.apply(deployment("extra", defaultService=None, services=[]))
        space.wait_ready("extra")
        assert before <= {pod["metadata"]["name"] for pod in space.list("pod")}
    finally:
        helm.upgrade(OPERATOR, operator)
    load.passes(5)
    load.stop()


def test_uninstall_keeps_what_is_the_users(
    space: Space, client: Client, helm: Helm, operator: Json
) -> None:
    """Both charts, the definitions first; then installed again."""
    space.apply(code("code", "v1"), deployment("shop"))
    user = client("shop")
    space.wait_ready("shop")
    uid = space.get("ldep", "shop")["metadata"]["uid"]
    helm.uninstall(CRDS)
    helm.uninstall(OPERATOR)
    try:
        assert not Space(space.api, SYSTEM, space.image).pods()
        assert space.get("ldep", "shop")["metadata"]["uid"] == uid
        assert user.task(n="1") == "v1 1", "what runs goes on"
        # A Deployment can be deleted while no operator is there: nothing of ours is in the way.
        space.apply(deployment("other", defaultService=None, services=[]))
        space.delete("ldep", "other")
        eventually(lambda: space.find("ldep", "other") is None, "it is gone", 30)
        roles = space.api.request("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
        assert not [role for role in roles if role["metadata"]["name"].startswith(SYSTEM)]
    finally:
        helm.install(operator)
    space.apply(code("code", "v2"))
    eventually(lambda: user.task(n="2") == "v2 2", "the operator is back at work", 180, 1)
