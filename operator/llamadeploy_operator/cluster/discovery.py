"""What the cluster can do beyond the core: found when the operator starts, and again now and then,
so that what is installed later is used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.cache import Cache
from llamadeploy_operator.cluster.kinds import KEDA, Kind
from llamadeploy_operator.cluster.metadata_watch import MetadataWatch
from llamadeploy_operator.desired import Capabilities

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks."""

Watcher = Callable[[Kind, str | None], MetadataWatch]


class Discovery:
    """Knows whether KEDA is there, and watches its objects while it is.

    Args:
        scopes: namespaces, or ``None`` for all.
        watcher: makes a watch of a kind in a scope.
        changed: called with each custom resource that the news concern.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        found: Capabilities,
        scopes: Sequence[str | None],
        watcher: Watcher,
        changed: Callable[[], None],
    ) -> None:
        self.found = found
        self._api = api
        self._cache = cache
        self._scopes = scopes
        self._watcher = watcher
        self._changed = changed
        self._watches: list[asyncio.Task[Any]] = []

    def capabilities(self) -> Capabilities:
        """What is known."""
        return self.found

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                if await self.look():
                    self._changed()
        finally:
            await self._unwatch()

    async def look(self) -> bool:
        """Look once; whether there is news. An API server that cannot be asked has none."""
        try:
            keda = await self._has_keda()
        except ApiError as error:
            logger.warning("whether KEDA is there cannot be asked: %s", error)
            return False
        if keda == self.found.keda:
            return False
        logger.info("KEDA is %s", "there" if keda else "gone")
        self.found = replace(self.found, keda=keda)
        if keda:
            self._watches = [
                asyncio.create_task(self._watcher(kind, scope).run(), name=f"watch {kind.resource}")
                for kind in KEDA
                for scope in self._scopes
            ]
        else:
            await self._unwatch()
        return True

    async def _has_keda(self) -> bool:
        try:
            found = await self._api.request("GET", f"/apis/{KEDA[0].api_version}")
        except ApiError as error:
            if error.not_found:
                return False
            raise
        there = {each["name"] for each in found.get("resources") or ()}
        return {kind.plural for kind in KEDA} <= there

    async def _unwatch(self) -> None:
        watches, self._watches = self._watches, []
        for task in watches:
            task.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        for kind in KEDA:
            for key in self._cache.keys(kind):
                self._cache.drop(key)
