"""The cache of watched objects, and what its users make of it."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy_operator import names
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.kinds import APP, DEPLOYMENT, POD, SECRET, WORKFLOW_SERVICE, Kind
from llamadeploy_operator.cluster.sink import Sink
from llamadeploy_operator.cluster.status import difference
from llamadeploy_operator.health import Watchdog
from llamadeploy_operator.routing import Key, Routes

OWNER = {
    "apiVersion": "llamadeploy.io/v1alpha1",
    "kind": "Deployment",
    "name": "d",
    "uid": "owner",
    "controller": True,
}


def thing(name: str, version: int, *, uid: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": uid or name, "resourceVersion": str(version)}
    return {"metadata": metadata | more, "spec": {"deploymentRef": {"name": "d"}}}


def test_an_older_state_does_not_overwrite_a_newer_one() -> None:
    cache = Cache()
    cache.put(APP, thing("a", 10, annotations={"state": "new"}))
    cache.put(APP, thing("a", 9, annotations={"state": "old"}))
    found = cache.get(APP, "n", "a")
    assert found is not None
    assert found["metadata"]["annotations"] == {"state": "new"}
    # The same name, made anew.
    cache.put(APP, thing("a", 5, uid="second"))
    assert cache.uid(ObjectKey(APP, "n", "a")) == "second"
    cache.drop(ObjectKey(APP, "n", "a"), uid="a")
    assert cache.version(APP, "n", "a") == "5"
    cache.drop(ObjectKey(APP, "n", "a"), uid="second")
    assert cache.get(APP, "n", "a") is None
    assert len(cache) == 0


def test_children_are_found_by_their_owner_and_labels() -> None:
    cache = Cache()
    labels = names.labels("d", names.WORKER, workflow_service="d-s")
    key = cache.put(POD, thing("p", 1, labels=labels, ownerReferences=[OWNER]))
    assert list(cache.owned_by("owner")) == [key]
    assert cache.labelled(POD, "n", names.DEPLOYMENT_LABEL, "d") == [key]
    assert cache.labelled(POD, "n", names.WORKFLOW_SERVICE_LABEL, "d-s") == [key]
    assert cache.labelled(POD, "n", names.WORKFLOW_SERVICE_LABEL, "d") == []
    cache.put(POD, thing("p", 2))
    assert list(cache.owned_by("owner")) == []
    assert cache.labelled(POD, "n", names.DEPLOYMENT_LABEL, "d") == []


def test_only_what_is_read_is_kept() -> None:
    cache = Cache()
    book = [
        {"manager": names.MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {}}},
        {"manager": names.MANAGER, "operation": "Update", "fieldsV1": {}},
        {"manager": "kubectl", "operation": "Apply", "fieldsV1": {}},
    ]
    given = thing("a", 1, managedFields=book)
    cache.put(APP, given)
    found = cache.get(APP, "n", "a")
    assert found is not None
    assert found["metadata"]["managedFields"] == book[:1]
    assert given["metadata"]["managedFields"] == book
    pod = thing("p", 1, managedFields=book, ownerReferences=[OWNER], labels={"x": "y"})
    cache.put(POD, {**pod, "status": {"phase": "Running"}})
    assert cache.get(POD, "n", "p") == {
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "p",
            "resourceVersion": "1",
            "ownerReferences": [OWNER],
            "labels": {"x": "y"},
        },
        "status": {"phase": "Running"},
    }


def test_steady_is_said_of_one_state_only() -> None:
    cache = Cache()
    key = ObjectKey(APP, "n", "a")
    cache.note_steady(key, "hash")
    assert cache.steady(key) is None  # it is not there
    cache.put(APP, thing("a", 1))
    cache.note_steady(key, "hash")
    cache.put(APP, thing("a", 1))
    assert cache.steady(key) == "hash"
    cache.put(APP, thing("a", 2))
    assert cache.steady(key) is None
    cache.note_steady(key, "hash")
    cache.drop(key)
    assert cache.steady(key) is None


def test_what_a_new_list_lacks_is_gone_and_told() -> None:
    cache, told = Cache(), []

    def changed(kind: Kind, body: dict[str, Any]) -> None:
        told.append(body["metadata"]["name"])

    sink = Sink(cache, Watchdog(), changed)
    kept = sink.seen(APP, thing("kept", 1))
    sink.seen(APP, thing("gone", 1))
    sink.seen(POD, thing("other-kind", 1))
    sink.listed(APP, None, {kept})
    assert told == ["gone"]
    assert {key.name for key in cache.keys(APP)} == {"kept"}
    assert {key.name for key in cache.keys(POD)} == {"other-kind"}


def test_a_change_reaches_whom_it_concerns() -> None:
    cache = Cache()
    routes = Routes(cache)
    for name in ("d-a", "d-b"):
        cache.put(WORKFLOW_SERVICE, thing(name, 1))
    deployment, first = Key("Deployment", "n", "d"), Key("WorkflowService", "n", "d-a")
    services = {first, Key("WorkflowService", "n", "d-b")}
    assert set(routes.of(DEPLOYMENT, thing("d", 1))) == {deployment, *services}
    assert set(routes.of(WORKFLOW_SERVICE, thing("d-a", 1))) == {deployment, *services}
    assert set(routes.of(APP, thing("child", 1, ownerReferences=[OWNER]))) == {deployment}
    labels = names.labels("d", names.WORKER, workflow_service="d-a")
    assert set(routes.of(POD, thing("p", 1, labels=labels))) == {first}

    secret = ObjectKey(SECRET, "n", "s")
    assert set(routes.of(SECRET, thing("s", 1))) == set()
    routes.consumes(first, {secret})
    routes.consumes(deployment, {secret})
    assert set(routes.of(SECRET, thing("s", 1))) == {first, deployment}
    routes.consumes(first, set())
    assert set(routes.of(SECRET, thing("s", 1))) == {deployment}


def test_the_pod_of_a_long_name_reaches_its_owner() -> None:
    name = "x" * 70
    cache = Cache()
    cache.put(WORKFLOW_SERVICE, thing(name, 1))
    labels = names.labels("d", names.WORKER, workflow_service=name)
    assert labels[names.WORKFLOW_SERVICE_LABEL] != name
    found = set(Routes(cache).of(POD, thing("p", 1, labels=labels)))
    assert found == {Key("WorkflowService", "n", name)}


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3}}, {"a": {"y": 3}}),
        ({"a": [1, 2]}, {"a": [2]}, {"a": [2]}),
        ({}, {"a": {"x": 1}}, {"a": {"x": 1}}),
    ],
)
def test_a_status_patch_holds_only_what_differs(
    old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]
) -> None:
    assert difference(old, new) == patch
