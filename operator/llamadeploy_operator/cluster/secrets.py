"""The internal Secret: drawn once, and never again, whatever goes wrong in between."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.apply import ChangeSet, key_of, may_have, name_conflict
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.ownership import digest
from llamadeploy_operator.desired import DeploymentContext
from llamadeploy_operator.desired.internal import (
    KEY_BYTES,
    internal_keys,
    internal_secret,
    internal_value,
)
from llamadeploy_operator.names import MANAGER

logger = logging.getLogger(__name__)

Json = dict[str, Any]


class InternalSecrets:
    """Creates internal Secrets and adds keys that are missing; never writes a key that is there.

    A Secret counts as absent only when the API server itself says 404 to a GET: neither a cache
    nor an error is trusted with that. Of several replicas that create it at once the API server
    takes one; the others find it at their next try.
    """

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api = api
        self._cache = cache
        # What was found good: its version, and a hash of what was wanted.
        self._good: dict[ObjectKey, tuple[str, str]] = {}

    async def ensure(self, context: DeploymentContext, changes: ChangeSet) -> ObjectKey:
        """See to the internal Secret of a Deployment; gives its key.

        Raises:
            ApiError: it could not be read or written; nothing was drawn anew. Try again.
        """
        wanted = internal_secret(context, dict.fromkeys(internal_keys(context.spec), ""))
        key, wish = key_of(wanted), digest(wanted)
        known = self._good.get(key)
        if known is not None and known == (self._cache.version(*key), wish):
            return key
        live = await self._get(key)
        if live is None:
            live = await self._api.create(
                key.kind, key.namespace, _filled(wanted, wanted["data"]), fieldManager=MANAGER
            )
            changes.applied.append(key)
        elif not may_have(live, wanted):
            changes.problems.append(name_conflict(key, live))
            return key
        elif patch := _lacking(live, wanted):
            live = await self._api.merge_patch(*key, patch, fieldManager=MANAGER)
            changes.applied.append(key)
        self._cache.put(key.kind, {"metadata": live["metadata"]})
        self._good[key] = (live["metadata"]["resourceVersion"], wish)
        return key

    async def _get(self, key: ObjectKey) -> Json | None:
        try:
            return await self._api.get(*key)
        except ApiError as error:
            if error.not_found:
                return None
            raise


def _lacking(live: Json, wanted: Json) -> Json | None:
    """A merge patch with the keys and references that are missing, or ``None``.

    It carries the version that was read, so that a change in between makes it fail (409).
    """
    metadata: Json = {}
    references = wanted["metadata"].get("ownerReferences")
    if (live["metadata"].get("ownerReferences") or None) != (references or None):
        # Retained ones lose their owner, and one that was retained is adopted.
        metadata["ownerReferences"] = references
    missing = {key: "" for key in wanted["data"] if not (live.get("data") or {}).get(key)}
    if not metadata and not missing:
        return None
    metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    return _filled({"metadata": metadata}, missing)


def _filled(body: Json, keys: Mapping[str, str]) -> Json:
    """``body`` with newly drawn values for ``keys``."""
    data = {
        key: base64.b64encode(internal_value(key, secrets.token_bytes(KEY_BYTES)).encode()).decode()
        for key in keys
    }
    return {**body, "data": data} if data else body
