"""Which fields of a live object are still ours: Kubernetes keeps that book, we only read it.

A field that we applied stays in our entry of ``managedFields`` exactly as long as nobody else
changes or removes it. So "is everything as we applied it" needs no comparison of values, which
defaults and normal forms (``0.5`` and ``500m``) would make a guess.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from llamadeploy.spec.manifest import GROUP

APPLIED_ANNOTATION = f"{GROUP}/applied"
"""On every child: a hash of the manifest that was applied last."""

Json = dict[str, Any]


def digest(manifest: Mapping[str, Any]) -> str:
    """A short hash of a manifest."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamped(manifest: Json) -> Json:
    """A copy of the manifest with its own hash in an annotation."""
    metadata = dict(manifest["metadata"])
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}),
        APPLIED_ANNOTATION: digest(manifest),
    }
    return {**manifest, "metadata": metadata}


def is_steady(live: Mapping[str, Any], stamp: Mapping[str, Any], manager: str) -> bool:
    """Whether applying ``stamp`` (from :func:`stamped`) would change nothing of ``live``."""
    wanted = stamp["metadata"]["annotations"][APPLIED_ANNOTATION]
    if (live["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION) != wanted:
        return False
    return missing(live, stamp, manager) is None


def missing(live: Mapping[str, Any], manifest: Mapping[str, Any], manager: str) -> str | None:
    """The path of a field of ``manifest`` that is no longer ours in ``live``, or ``None``."""
    fields = owned_fields(live, manager)
    metadata = manifest["metadata"]
    checked = {key: value for key, value in manifest.items() if key not in _IDENTITY}
    checked["metadata"] = {
        key: metadata[key]
        for key in ("labels", "annotations", "ownerReferences")
        if key in metadata
    }
    return _missing(fields, checked, "")


_IDENTITY = ("apiVersion", "kind", "metadata")


def owned_fields(live: Mapping[str, Any], manager: str, sub: str = "") -> Json:
    """What ``manager`` applied (the object itself, or its subresource), as ``fieldsV1``."""
    for entry in live["metadata"].get("managedFields") or ():
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and (
            entry.get("subresource") or ""
        ) == sub:
            fields: Json = entry.get("fieldsV1") or {}
            return fields
    return {}


def owns(live: Mapping[str, Any], manager: str, *path: str) -> bool:
    """Whether ``manager`` applied the field at ``path``."""
    fields: Any = owned_fields(live, manager)
    for part in path:
        fields = fields.get(f"f:{part}")
        if fields is None:
            return False
    return True


def _missing(fields: Mapping[str, Any], value: Any, path: str) -> str | None:
    if isinstance(value, dict):
        for key, item in value.items():
            owned = fields.get(f"f:{key}")
            found = _missing_below(owned, item, f"{path}.{key}")
            if found is not None:
                return found
    elif isinstance(value, list):
        for item in value:
            found = _missing_below(_entry_of(fields, item), item, f"{path}[]")
            if found is not None:
                return found
    return None


def _missing_below(owned: Mapping[str, Any] | None, value: Any, path: str) -> str | None:
    # Empty maps and lists may vanish when the API server stores the object.
    if value is None or (isinstance(value, dict | list) and not value):
        return None
    if owned is None:
        return path.lstrip(".")
    # Nothing below: a scalar, or a list or map that is owned as a whole.
    return _missing(owned, value, path) if owned else None


def _entry_of(fields: Mapping[str, Any], item: Any) -> Mapping[str, Any] | None:
    """The entry of a list's item: by its value, or by the keys that name it in its list."""
    if not isinstance(item, dict):
        found: Mapping[str, Any] | None = fields.get(
            f"v:{json.dumps(item, separators=(',', ':'), ensure_ascii=False)}"
        )
        return found
    for name, owned in fields.items():
        if name.startswith("k:"):
            keys = json.loads(name[2:])
            # A key may be left out in a manifest where it has a default (a port's protocol).
            if all(item.get(key, value) == value for key, value in keys.items()):
                return owned  # type: ignore[no-any-return]
    return None
