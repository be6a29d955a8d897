"""What is kept of an object in memory: what somebody reads, and no more.

A pod is several kilobytes, of which the operator reads its labels and its state; and of the book
of fields (``managedFields``), often half of an object, it reads its own pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamadeploy_operator.cluster.kinds import POD, Kind
from llamadeploy_operator.names import MANAGER

Json = dict[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""ReplicaSets delete pods with a lower number first; without the annotation it is 0."""

_POD_METADATA = (
    "name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp",
    "labels", "ownerReferences",
)  # fmt: skip


def kept(kind: Kind, body: Mapping[str, Any]) -> Json:
    """A shallow copy without what nobody reads; ``body`` stays as it is."""
    metadata = body["metadata"]
    if kind == POD:
        trimmed = {key: metadata[key] for key in _POD_METADATA if key in metadata}
        cost = (metadata.get("annotations") or {}).get(DELETION_COST)
        if cost is not None:
            trimmed["annotations"] = {DELETION_COST: cost}
        return {"metadata": trimmed, "status": body.get("status") or {}}
    book = metadata.get("managedFields")
    if not book:
        return dict(body)
    ours = [
        entry
        for entry in book
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply"
    ]
    return {**body, "metadata": {**metadata, "managedFields": ours}}
