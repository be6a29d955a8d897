"""Which changes of a definition, or of a chart's values, break what users have written.

Pure. What is allowed: new optional fields, wider bounds, larger enums, fewer rules. What breaks:
objects that were accepted are refused, or a field that was read is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_LOWER = ("minimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "default")
_WIDER = {("integer", "number")}


def breaking_definition(old: Schema, new: Schema) -> list[str]:
    """What the new CustomResourceDefinition takes away, one line each; empty: nothing."""
    return list(_definition(old["spec"], new["spec"]))


def breaking_values(old: Schema, new: Schema, path: str = "") -> list[str]:
    """Values of a chart (parsed ``values.yaml``) that are gone, or have become another type."""
    found = []
    for name, value in old.items():
        at = f"{path}{name}"
        if name not in new:
            found.append(f"{at}: removed")
        elif isinstance(value, dict) and isinstance(new[name], dict):
            # An empty map is the user's to fill; a filled one has our keys.
            found += breaking_values(value, new[name], f"{at}.") if value else []
        elif (kind := _kind(value)) != _kind(new[name]) and value not in ("", None):
            found.append(f"{at}: was {kind}, is {_kind(new[name])}")
    return found


def _kind(value: object) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else (
        type(value).__name__
    )  # fmt: skip


def _definition(old: Schema, new: Schema) -> Iterator[str]:
    for key in ("group", "scope"):
        if old[key] != new[key]:
            yield f"{key}: was {old[key]}, is {new[key]}"
    for key in ("kind", "plural", "singular"):
        if old["names"].get(key) != new["names"].get(key):
            yield f"names.{key}: was {old['names'].get(key)}, is {new['names'].get(key)}"
    for key in ("shortNames", "categories"):
        for name in sorted(set(old["names"].get(key, ())) - set(new["names"].get(key, ()))):
            yield f"names.{key}: '{name}' removed"
    versions = {each["name"]: each for each in new["versions"]}
    for each in old["versions"]:
        later = versions.get(each["name"])
        if each["served"] and (later is None or not later["served"]):
            yield f"version {each['name']}: no longer served"
        elif later is not None:
            yield from _version(each, later)


def _version(old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("subresources") or {}, new.get("subresources") or {}
    for name, content in before.items():
        if name not in after:
            yield f"subresource {name}: removed"
        elif content != after[name]:
            yield f"subresource {name}: was {content}, is {after[name]}"
    root = "openAPIV3Schema"
    yield from _schema(old["schema"][root], new["schema"][root], "")


def _schema(old: Schema, new: Schema, path: str) -> Iterator[str]:
    at = path or "the object"
    yield from _types(old, new, at)
    yield from _bounds(old, new, at)
    rules = {rule["rule"] for rule in old.get("x-kubernetes-validations", ())}
    for rule in new.get("x-kubernetes-validations", ()):
        if rule["rule"] not in rules:
            yield f"{at}: new rule: {rule.get('message', rule['rule'])}"
    free = "x-kubernetes-preserve-unknown-fields"
    if old.get(free) and not new.get(free):
        yield f"{at}: unknown fields are no longer kept"
    below, now = old.get("properties") or {}, new.get("properties") or {}
    for name, child in below.items():
        if name in now:
            yield from _schema(child, now[name], f"{path}.{name}".lstrip("."))
        elif not new.get(free):
            yield f"{path}.{name}: removed".lstrip(".")
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{path}.{name}: is required now".lstrip(".")
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            yield from _schema(old[key], new[key], path + suffix)


def _types(old: Schema, new: Schema, at: str) -> Iterator[str]:
    mixed = "x-kubernetes-int-or-string"
    if old.get(mixed) and not new.get(mixed):
        yield f"{at}: takes no longer both a number and a text"
    elif not new.get(mixed):
        types = (old.get("type"), new.get("type"))
        if types[0] != types[1] and types not in _WIDER:
            yield f"{at}: was of type {types[0]}, is {types[1]}"
    if old.get("nullable") and not new.get("nullable"):
        yield f"{at}: null is no longer taken"


def _bounds(old: Schema, new: Schema, at: str) -> Iterator[str]:
    for key in (*_LOWER, *_UPPER):
        if key in new and (key not in old or _tighter(key, old[key], new[key])):
            yield f"{at}: {key} was {old.get(key, 'not set')}, is {new[key]}"
    for key in ("exclusiveMinimum", "exclusiveMaximum"):
        if new.get(key) and not old.get(key):
            yield f"{at}: {key} is set now"
    for key in ("pattern", "format"):
        if key in new and new[key] != old.get(key):
            yield f"{at}: {key} was {old.get(key, 'not set')}, is {new[key]}"
    if "enum" in new:
        gone = [value for value in old.get("enum", ()) if value not in new["enum"]]
        if "enum" not in old:
            yield f"{at}: takes some values only now"
        elif gone:
            yield f"{at}: no longer takes {', '.join(map(str, gone))}"
    for key in _SAME:
        if key in old and old[key] != new.get(key):
            yield f"{at}: {key} was {old[key]}, is {new.get(key, 'not set')}"


def _tighter(key: str, old: float, new: float) -> bool:
    return new > old if key in _LOWER else new < old
