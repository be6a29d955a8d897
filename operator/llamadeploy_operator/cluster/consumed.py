"""Hashes of the Secrets and ConfigMaps that pods read; their contents are never kept."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.kinds import CONFIG_MAP, SECRET
from llamadeploy_operator.desired import Consumed

logger = logging.getLogger(__name__)


class _Read(NamedTuple):
    version: str
    digest: str
    schemes: Mapping[str, str]


class ConsumedObjects:
    """Reads an object only when the metadata watch says that it changed."""

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api = api
        self._cache = cache
        self._read: dict[ObjectKey, _Read] = {}

    async def hashes(
        self, namespace: str, consumed: Iterable[Consumed]
    ) -> dict[Consumed, str | None]:
        """A hash of each one's contents; ``None``: absent, or not readable now."""
        return {item: await self._hash(key_of(namespace, item)) for item in sorted(consumed)}

    def scheme(self, namespace: str, secret: str, key: str) -> str | None:
        """The scheme of the URI under ``key`` of a Secret that was hashed before, or ``None``."""
        known = self._read.get(ObjectKey(SECRET, namespace, secret))
        return known.schemes.get(key) if known else None

    async def _hash(self, key: ObjectKey) -> str | None:
        version = self._cache.version(*key)
        if version is None:
            self._read.pop(key, None)
            return None
        known = self._read.get(key)
        if known is not None and known.version == version:
            return known.digest
        try:
            body = await self._api.get(*key)
        except ApiError as error:
            # What was recorded counts on; the watch, or the resync, brings us here again.
            logger.warning("%s %s cannot be read: %s", key.kind.kind, key.name, error)
            self._read.pop(key, None)
            return None
        read = _Read(body["metadata"]["resourceVersion"], _digest(body), _schemes(body))
        self._read[key] = read
        return read.digest


def key_of(namespace: str, item: Consumed) -> ObjectKey:
    """Where a consumed object is."""
    return ObjectKey(SECRET if item.kind == "Secret" else CONFIG_MAP, namespace, item.name)


def _digest(body: Mapping[str, Any]) -> str:
    contents = {key: body.get(key) or {} for key in ("data", "binaryData")}
    text = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _schemes(body: Mapping[str, Any]) -> dict[str, str]:
    """Of a Secret: key -> scheme, for the values that are URIs; nothing else of them."""
    found = {}
    for key, value in (body.get("data") or {}).items() if body.get("kind") == "Secret" else ():
        try:
            scheme, separator, _ = base64.b64decode(value).decode().strip().partition("://")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if separator and scheme.replace("+", "").isalnum() and len(scheme) <= 32:
            found[key] = scheme.lower()
    return found
