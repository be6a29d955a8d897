"""The cache of watched objects, and what its users make of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from llamadeploy_operator import names
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.kinds import APP, DEPLOYMENT, POD, SECRET, WORKFLOW_SERVICE, Kind
from llamadeploy_operator.cluster.sink import Sink
from llamadeploy_operator.cluster.status import difference
from llamadeploy_operator.health import Watchdog
from llamadeploy_operator.routing import Due, Key, Routes

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


def test_a_field_that_the_api_server_drops_is_known_while_the_object_lives() -> None:
    cache = Cache()
    key = ObjectKey(APP, "n", "a")
    cache.note_lost(key, "hash", "spec.x")
    assert cache.lost(key, "hash") is None  # it is not there
    cache.put(APP, thing("a", 1))
    cache.note_lost(key, "hash", "spec.x")
    cache.put(APP, thing("a", 2))
    assert (cache.lost(key, "hash"), cache.lost(key, "other")) == ("spec.x", None)
    cache.drop(key)
    cache.put(APP, thing("a", 3))
    assert cache.lost(key, "hash") is None


def test_lists_tell_of_what_is_new_and_of_what_is_gone() -> None:
    cache, told = Cache(), []

    def changed(kind: Kind, body: dict[str, Any]) -> None:
        told.append(body["metadata"]["name"])

    sink = Sink(cache, Watchdog(), changed)
    kept = sink.found(APP, thing("kept", 1))
    sink.found(APP, thing("gone", 1))
    sink.found(POD, thing("other-kind", 1))
    assert told == ["kept", "gone", "other-kind"]
    told.clear()
    assert sink.found(APP, thing("kept", 1)) == kept
    sink.listed(APP, None, {kept})
    assert told == ["gone"]
    assert {key.name for key in cache.keys(APP)} == {"kept"}
    assert {key.name for key in cache.keys(POD)} == {"other-kind"}


def test_what_we_wrote_ourselves_is_no_news_but_of_custom_resources() -> None:
    cache = Cache()
    sink = Sink(cache, Watchdog(), lambda kind, body: None)
    for kind, news in ((APP, False), (WORKFLOW_SERVICE, True)):
        cache.put(kind, thing("a", 5))
        assert sink.seen(kind, thing("a", 5))[1] is news
        assert sink.seen(kind, thing("a", 4))[1] is news
        assert sink.seen(kind, thing("a", 6))[1] is True


def keys(found: Iterable[Due]) -> set[Key]:
    return {item.key for item in found}


def test_a_change_reaches_whom_it_concerns() -> None:
    cache = Cache()
    routes = Routes(cache)
    for name in ("d-a", "d-b"):
        cache.put(WORKFLOW_SERVICE, thing(name, 1))
    deployment, first = Key("Deployment", "n", "d"), Key("WorkflowService", "n", "d-a")
    services = {first, Key("WorkflowService", "n", "d-b")}
    assert keys(routes.of(DEPLOYMENT, thing("d", 1))) == {deployment, *services}
    assert keys(routes.of(WORKFLOW_SERVICE, thing("d-a", 1))) == {deployment, *services}
    assert keys(routes.of(APP, thing("child", 1, ownerReferences=[OWNER]))) == {deployment}
    labels = names.labels("d", names.WORKER, workflow_service="d-a")
    assert keys(routes.of(POD, thing("p", 1, labels=labels))) == {first}

    secret = ObjectKey(SECRET, "n", "s")
    assert keys(routes.of(SECRET, thing("s", 1))) == set()
    routes.consumes(first, {secret})
    routes.consumes(deployment, {secret})
    assert keys(routes.of(SECRET, thing("s", 1))) == {first, deployment}
    routes.consumes(first, set())
    assert keys(routes.of(SECRET, thing("s", 1))) == {deployment}


def test_a_status_concerns_its_resource_and_the_one_above() -> None:
    cache = Cache()
    routes = Routes(cache)
    deployment, first = Key("Deployment", "n", "d"), Key("WorkflowService", "n", "d-a")
    second = Key("WorkflowService", "n", "d-b")
    cache.put(DEPLOYMENT, thing("d", 1))
    for name in ("d-a", "d-b"):
        cache.put(WORKFLOW_SERVICE, thing(name, 1))
    new = set(routes.of(WORKFLOW_SERVICE, thing("d-a", 1, generation=1)))
    assert new == {Due(first, urgent=True), Due(deployment), Due(first), Due(second)}
    # Somebody else's change of what is no spec; our own; a change of the spec; the end.
    assert set(routes.of(WORKFLOW_SERVICE, thing("d-a", 2, generation=1))) == {
        Due(first), Due(deployment)
    }  # fmt: skip
    routes.wrote(first, "3")
    assert set(routes.of(WORKFLOW_SERVICE, thing("d-a", 3, generation=1))) == {Due(deployment)}
    assert Due(first, urgent=True) in set(
        routes.of(WORKFLOW_SERVICE, thing("d-a", 4, generation=2))
    )
    cache.drop(ObjectKey(WORKFLOW_SERVICE, "n", "d-a"))
    gone = keys(routes.of(WORKFLOW_SERVICE, thing("d-a", 5, generation=2)))
    assert gone == {first, deployment, second}


def test_a_deployment_that_runs_something_else_concerns_its_services() -> None:
    cache = Cache()
    routes = Routes(cache)
    cache.put(DEPLOYMENT, thing("d", 1))
    cache.put(WORKFLOW_SERVICE, thing("d-a", 1))
    deployment, service = Key("Deployment", "n", "d"), Key("WorkflowService", "n", "d-a")

    def due(version: int, image: str | None) -> set[Due]:
        body = thing("d", version, generation=1)
        return set(routes.of(DEPLOYMENT, body | {"status": {"runtime": image}}))

    assert due(1, None) == {Due(deployment, urgent=True), Due(service, urgent=True)}
    assert due(2, "image:1") == {Due(deployment)}
    assert due(3, "image:1") == {Due(deployment)}
    assert due(4, "image:2") == {Due(deployment), Due(service)}


def test_the_pod_of_a_long_name_reaches_its_owner() -> None:
    name = "x" * 70
    cache = Cache()
    cache.put(WORKFLOW_SERVICE, thing(name, 1))
    labels = names.labels("d", names.WORKER, workflow_service=name)
    assert labels[names.WORKFLOW_SERVICE_LABEL] != name
    found = keys(Routes(cache).of(POD, thing("p", 1, labels=labels)))
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
