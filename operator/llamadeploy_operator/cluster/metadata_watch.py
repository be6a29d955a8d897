"""Watches Secrets and ConfigMaps by their metadata alone.

kopf cannot ask for ``PartialObjectMetadata``, and nobody should hold every Secret of a cluster in
memory to learn that one of them changed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from llamadeploy_operator.cluster.api import (
    METADATA,
    METADATA_LIST,
    Api,
    ApiError,
    watch_lines,
)
from llamadeploy_operator.cluster.kinds import Kind
from llamadeploy_operator.cluster.sink import Sink
from llamadeploy_operator.watch_limits import WatchLimits

logger = logging.getLogger(__name__)

PAGE = 500
RETRY_FIRST, RETRY_LIMIT = 0.5, 15.0

Json = dict[str, Any]


class _Expired(Exception):
    """The version to go on from is too old; list again."""


class MetadataWatch:
    """One kind in one namespace, or in all. ``changed`` hears of each event's metadata.

    Args:
        selector: of labels; empty: every object.
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        namespace: str | None,
        sink: Sink,
        changed: Callable[[Kind, Json], None],
        limits: WatchLimits,
        selector: str = "",
    ) -> None:
        self._api = api
        self._kind = kind
        self._namespace = namespace
        self._sink = sink
        self._changed = changed
        self._limits = limits
        self._selected = {"labelSelector": selector} if selector else {}

    async def run(self) -> None:
        """Watch until cancelled; whatever breaks it, it starts again."""
        version: str | None = None
        failures = 0
        while True:
            try:
                if version is None:
                    version = await self._list()
                    failures = 0
                async for seen in self._watch(version):
                    version, failures = seen, 0
            except _Expired:
                version = None
            except TimeoutError:
                logger.warning("watch of %s: silent, listed anew", self._kind.resource)
                self._sink.silent(self._kind, self._namespace)
                version = None
            except (ApiError, aiohttp.ClientError, OSError) as error:
                failures += 1
                logger.warning(
                    "watch of %s: %s", self._kind.resource, error or type(error).__name__
                )
                if isinstance(error, ApiError) and error.status:
                    version = None
            delay = min(RETRY_FIRST * 2 ** min(failures, 8), RETRY_LIMIT)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311

    async def _list(self) -> str:
        found = set()
        query = {"limit": str(PAGE), **self._selected}
        while True:
            path = self._kind.path(self._namespace)
            page = await self._api.request("GET", path, query=query, accept=METADATA_LIST)
            for item in page.get("items") or ():
                found.add(self._sink.found(self._kind, _trimmed(item)))
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        self._sink.listed(self._kind, self._namespace, found)
        version: str = page["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> AsyncIterator[str]:
        """Yields the version to go on from, after each event."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(self._limits.request),
            **self._selected,
        }
        path = self._kind.path(self._namespace)
        begun = time.monotonic()
        async with self._api.stream(path, query=query, accept=METADATA) as response:
            async for event in watch_lines(response, inactivity=self._limits.silence):
                yield self._take(event)
        if time.monotonic() - begun >= self._limits.request:
            self._sink.alive(self._kind, self._namespace)  # see watch_limits: ended at its time

    def _take(self, event: Json) -> str:
        body = event["object"]
        if event["type"] == "ERROR":
            if body.get("code") == 410:
                raise _Expired
            raise ApiError(int(body.get("code") or 500), body.get("reason", ""), json.dumps(body))
        self._sink.alive(self._kind, self._namespace)
        if event["type"] == "DELETED":
            self._sink.gone(self._kind, body)
            self._changed(self._kind, body)
        elif event["type"] in ("ADDED", "MODIFIED"):
            _, news = self._sink.seen(self._kind, _trimmed(body))
            if news:
                self._changed(self._kind, body)
        version: str = body["metadata"]["resourceVersion"]
        return version


def _trimmed(body: Json) -> Json:
    """Without the book of fields of objects that are not ours; most are not."""
    metadata = body["metadata"]
    if "app.kubernetes.io/managed-by" in (metadata.get("labels") or {}):
        return {"metadata": metadata}
    kept = ("name", "namespace", "uid", "resourceVersion")
    return {"metadata": {key: metadata[key] for key in kept}}
