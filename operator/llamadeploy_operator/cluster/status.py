"""Write a custom resource's status, and only when it says something else than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.names import MANAGER

Json = dict[str, Any]


async def write_status(
    api: Api, cache: Cache, key: ObjectKey, live: Mapping[str, Any], status: Mapping[str, Any]
) -> bool:
    """PATCH what differs; gives whether anything did.

    A resource that was deleted (or deleted and made anew) meanwhile is left alone.

    Raises:
        ApiError: try again.
    """
    patch = difference(live.get("status") or {}, status)
    if not patch:
        return False
    # The uid makes it a conflict when another object has that name now.
    body = {"metadata": {"uid": live["metadata"]["uid"]}, "status": patch}
    try:
        result = await api.merge_patch(
            *key, body, sub="status", fieldManager=MANAGER, fieldValidation="Strict"
        )
    except ApiError as error:
        if error.not_found or (error.conflict and cache.uid(key) != live["metadata"]["uid"]):
            return False
        raise
    cache.put(key.kind, result)
    return True


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """The JSON merge patch that makes ``old`` into ``new``; empty where they are equal."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, Mapping) and isinstance(old[key], Mapping):
            if below := difference(old[key], value):
                patch[key] = below
        elif old[key] != value:
            patch[key] = value
    return patch
