"""Merges a ``podTemplate`` overlay over our pod template, by the list keys of core/v1.

Maps are merged; lists that Kubernetes keys (containers by name, ports by number, ...) are merged
item by item, other lists and scalars replaced; ``null`` takes a field away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llamadeploy.settings import PREFIX
from llamadeploy.spec.manifest import GROUP
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import Manifest
from llamadeploy_operator.errors import InvalidPodTemplate

LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "schedulingGates": ("name",),
    "resourceClaims": ("name",),
    "claims": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
}
"""Field -> the keys of its items, as core/v1 declares them (``x-kubernetes-list-map-keys``)."""

_KEY_DEFAULTS = {"protocol": "TCP"}
_HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")


def merge_pod_template(base: Manifest, overlay: Mapping[str, Any] | None, field: str) -> Manifest:
    """``base`` with ``overlay`` over it; neither is changed.

    Args:
        field: where the overlay stands in the spec, for errors.

    Raises:
        InvalidPodTemplate: it changes what it must not, or does not fit.
    """
    if not overlay:
        return base
    check_overlay(overlay, field)
    merged: Manifest = _merge(base, overlay, field)
    return merged


def check_overlay(overlay: Mapping[str, Any], field: str) -> None:
    """Refuse what an overlay must not have.

    Raises:
        InvalidPodTemplate: names the field, and what to do instead.
    """
    for problem in _problems(overlay, field):
        raise problem


def _problems(overlay: Mapping[str, Any], field: str) -> Iterator[InvalidPodTemplate]:
    for key in overlay:
        if key not in ("metadata", "spec"):
            yield InvalidPodTemplate(
                f"{field}.{key}", "is no part of a pod template", "use metadata and spec"
            )
    metadata = _mapping(overlay, "metadata", field)
    for key in metadata:
        if key not in ("labels", "annotations"):
            yield InvalidPodTemplate(
                f"{field}.metadata.{key}", "cannot be set on pods", "use labels and annotations"
            )
    for kind in ("labels", "annotations"):
        for name in _mapping(metadata, kind, f"{field}.metadata"):
            if name in names.RESERVED_LABELS or name.startswith(f"{GROUP}/"):
                yield InvalidPodTemplate(
                    f"{field}.metadata.{kind}", f"'{name}' is the operator's", "use another name"
                )
    yield from _pod_problems(_mapping(overlay, "spec", field), f"{field}.spec")


def _pod_problems(spec: Mapping[str, Any], field: str) -> Iterator[InvalidPodTemplate]:
    for name in _HOST_NAMESPACES:
        if spec.get(name):
            yield InvalidPodTemplate(f"{field}.{name}", "pods share nothing of the node", "drop it")
    for index, volume in enumerate(_items(spec, "volumes", field)):
        if "hostPath" in volume:
            yield InvalidPodTemplate(
                f"{field}.volumes[{index}].hostPath",
                "pods mount nothing of the node",
                "use a persistentVolumeClaim or emptyDir",
            )
    if _mapping(_mapping(spec, "securityContext", field), "windowsOptions", field):
        yield InvalidPodTemplate(
            f"{field}.securityContext.windowsOptions", "pods run on Linux", "drop it"
        )
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(_items(spec, kind, field)):
            yield from _container_problems(container, f"{field}.{kind}[{index}]")
    if "ephemeralContainers" in spec:
        yield InvalidPodTemplate(
            f"{field}.ephemeralContainers", "cannot be in a template", "use kubectl debug"
        )


def _container_problems(item: Mapping[str, Any], field: str) -> Iterator[InvalidPodTemplate]:
    if _mapping(item, "securityContext", field).get("privileged"):
        yield InvalidPodTemplate(
            f"{field}.securityContext.privileged", "privileged containers are refused", "drop it"
        )
    for variable in _items(item, "env", field):
        if str(variable.get("name", "")).startswith(PREFIX):
            yield InvalidPodTemplate(
                f"{field}.env",
                f"'{variable['name']}' is set by the operator",
                f"use a name without {PREFIX}, or the spec's own field",
            )
    for index, each in enumerate(_items(item, "ports", field)):
        if each.get("hostPort"):
            yield InvalidPodTemplate(
                f"{field}.ports[{index}].hostPort", "pods share no port of the node", "drop it"
            )


def _merge(base: Any, overlay: Any, field: str) -> Any:
    if not isinstance(base, Mapping) or not isinstance(overlay, Mapping):
        return overlay
    merged = dict(base)
    for key, value in overlay.items():
        at = f"{field}.{key}"
        if key.startswith("$"):
            raise InvalidPodTemplate(at, "patch directives are not read", "write the fields")
        if value is None:
            merged.pop(key, None)
        elif key in LIST_KEYS and (isinstance(value, list) or isinstance(merged.get(key), list)):
            merged[key] = _merge_list(merged.get(key) or [], value, LIST_KEYS[key], at)
        elif isinstance(value, Mapping):
            merged[key] = _merge(merged.get(key) or {}, value, at)
        elif isinstance(merged.get(key), Mapping):
            raise InvalidPodTemplate(at, f"is {_kind(value)}", "must be a mapping, as in core/v1")
        else:
            merged[key] = value
    return merged


def _merge_list(base: list[Any], overlay: Any, keys: tuple[str, ...], field: str) -> list[Any]:
    if not isinstance(overlay, list):
        raise InvalidPodTemplate(field, f"is {_kind(overlay)}", "must be a list, as in core/v1")
    merged = {_identity(item, keys, field): item for item in base}
    seen = set()
    for index, item in enumerate(overlay):
        at = f"{field}[{index}]"
        identity = _identity(item, keys, at)
        if identity in seen:
            raise InvalidPodTemplate(at, f"{identity[0]!r} appears twice", "keep one of them")
        seen.add(identity)
        merged[identity] = _replaced(merged.get(identity), item, at)
    return list(merged.values())


def _replaced(base: Any, item: Any, field: str) -> Any:
    """``value`` and ``valueFrom`` of a variable, and the type of a volume, exclude each other: the
    overlay's replaces ours."""
    if base is not None and ("value" in item or "valueFrom" in item):
        return _merge({}, item, field)
    if base is not None and field.rpartition(".")[2].startswith("volumes["):
        return _merge({}, item, field)
    return _merge(base or {}, item, field)


def _identity(item: Any, keys: tuple[str, ...], field: str) -> tuple[Any, ...]:
    if not isinstance(item, Mapping):
        raise InvalidPodTemplate(field, f"is {_kind(item)}", "must be a mapping")
    found = tuple(item.get(key, _KEY_DEFAULTS.get(key)) for key in keys)
    if None in found:
        missing = keys[found.index(None)]
        raise InvalidPodTemplate(field, f"has no {missing}", f"write its {missing}")
    return found


def _mapping(item: Mapping[str, Any], key: str, field: str) -> Mapping[str, Any]:
    value = item.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidPodTemplate(f"{field}.{key}", f"is {_kind(value)}", "must be a mapping")
    return value


def _items(item: Mapping[str, Any], key: str, field: str) -> list[Mapping[str, Any]]:
    value = item.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidPodTemplate(f"{field}.{key}", f"is {_kind(value)}", "must be a list")
    for index, each in enumerate(value):
        if not isinstance(each, Mapping):
            at = f"{field}.{key}[{index}]"
            raise InvalidPodTemplate(at, f"is {_kind(each)}", "must be a mapping")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a truth value"
    kinds = {str: "text", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), "something else")
