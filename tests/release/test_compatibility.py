"""What counts as a breaking change of a definition or of a chart's values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from llamadeploy_operator.models.crd import CRDS
from release.compatibility import breaking_definition, breaking_values

Change = Callable[[dict[str, Any]], object]

SPEC = {
    "type": "object",
    "required": ["path"],
    "x-kubernetes-validations": [{"rule": "self.path != ''", "message": "write a path"}],
    "properties": {
        "path": {"type": "string", "maxLength": 100, "pattern": "^a"},
        "replicas": {"type": "integer", "minimum": 0, "maximum": 10, "default": 1},
        "policy": {"type": "string", "enum": ["enqueue", "reject"]},
        "size": {"x-kubernetes-int-or-string": True},
        "overlay": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "env": {
            "type": "array",
            "maxItems": 5,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    },
}


def crd() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": copy.deepcopy(SPEC)}}
    version = {
        "name": "v1",
        "served": True,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas"}},
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"kind": "Thing", "plural": "things", "shortNames": ["th"]}
    return {"spec": {"group": "g", "scope": "Namespaced", "names": names, "versions": [version]}}


def changed(change: Change) -> list[str]:
    """What is found when ``change`` was done to the spec's schema."""
    new = crd()
    change(new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return breaking_definition(crd(), new)


def prop(name: str, **values: Any) -> Change:
    return lambda spec: spec["properties"][name].update(values)


def without(name: str, key: str) -> Change:
    return lambda spec: spec["properties"][name].pop(key)


RULE = {"rule": "self.replicas < 5", "message": "write fewer"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec["properties"].pop("policy"), "spec.policy: removed"),
        (lambda spec: spec["required"].append("policy"), "spec.policy: is required now"),
        (prop("replicas", type="string"), "was of type integer, is string"),
        (prop("replicas", maximum=9), "maximum was 10, is 9"),
        (prop("replicas", minimum=1), "minimum was 0, is 1"),
        (prop("replicas", exclusiveMinimum=True), "exclusiveMinimum"),
        (prop("replicas", default=2), "default was 1, is 2"),
        (without("replicas", "default"), "default was 1, is not set"),
        (prop("path", maxLength=99), "maxLength was 100, is 99"),
        (prop("path", minLength=2), "minLength was not set, is 2"),
        (prop("path", pattern="^b"), "pattern was ^a, is ^b"),
        (prop("path", enum=["a"]), "takes some values only now"),
        (prop("policy", enum=["enqueue"]), "no longer takes reject"),
        (lambda spec: spec["properties"].update(size={"type": "string"}), "number and a text"),
        (without("overlay", "x-kubernetes-preserve-unknown-fields"), "unknown fields"),
        (prop("labels", additionalProperties={"type": "integer"}), "spec.labels{}: was of type"),
        (prop("env", maxItems=4), "spec.env: maxItems was 5, is 4"),
        (prop("env", **{"x-kubernetes-list-type": "atomic"}), "list-type was map, is atomic"),
        (prop("env", items={"type": "object"}), "spec.env[].name: removed"),
        (lambda spec: spec["x-kubernetes-validations"].append(RULE), "new rule: write fewer"),
    ],
)
def test_what_takes_something_away_breaks(change: Change, words: str) -> None:
    found = changed(change)
    assert len(found) == 1 and words in found[0], found


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["properties"].update(new={"type": "string"}),
        lambda spec: spec["required"].clear(),
        lambda spec: spec["x-kubernetes-validations"].clear(),
        prop("replicas", maximum=11),
        prop("replicas", minimum=-1),
        prop("replicas", type="number"),
        prop("policy", enum=["enqueue", "reject", "parallel"]),
        prop("path", description="another text"),
        without("path", "pattern"),
        without("path", "maxLength"),
        lambda spec: spec["properties"].update(path={"x-kubernetes-int-or-string": True}),
    ],
)
def test_what_gives_more_does_not(change: Change) -> None:
    assert changed(change) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["versions"][0].update(served=False), "v1: no longer served"),
        (lambda s: s["versions"][0].update(name="v2"), "v1: no longer served"),
        (lambda s: s["versions"][0]["subresources"].pop("scale"), "subresource scale: removed"),
        (lambda s: s["names"].update(shortNames=[]), "'th' removed"),
        (lambda s: s["names"].update(plural="thingies"), "names.plural"),
        (lambda s: s.update(scope="Cluster"), "scope: was Namespaced"),
    ],
)
def test_names_versions_and_subresources(change: Change, words: str) -> None:
    new = crd()
    change(new["spec"])
    found = breaking_definition(crd(), new)
    assert len(found) == 1 and words in found[0], found


def test_our_own_definitions_are_compatible_with_themselves() -> None:
    for build in CRDS.values():
        assert breaking_definition(build(), build()) == []


def test_values() -> None:
    old = {"a": 1, "b": {"c": True, "d": ""}, "free": {}, "gone": []}
    new = {"a": 2.5, "b": {"c": False, "d": 3}, "free": {"x": 1}, "e": 1}
    assert breaking_values(old, new) == ["gone: removed"]
    assert breaking_values(old, {**old, "b": {"c": "yes"}}) == [
        "b.c: was bool, is str",
        "b.d: removed",
    ]
