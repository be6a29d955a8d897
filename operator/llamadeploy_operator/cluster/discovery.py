"""What the cluster can do beyond the core: found when the operator starts, and again now and then,
so that what is installed later is used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llamadeploy_operator.cluster.api import METADATA_LIST, Api, ApiError
from llamadeploy_operator.cluster.cache import Cache
from llamadeploy_operator.cluster.kinds import KEDA, POD_MONITOR, Kind
from llamadeploy_operator.cluster.metadata_watch import MetadataWatch
from llamadeploy_operator.desired import Capabilities
from llamadeploy_operator.health import Watch, Watchdog

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks."""

OPTIONAL: dict[str, tuple[Kind, ...]] = {"pod_monitor": (POD_MONITOR,), "keda": KEDA}
"""Field of ``Capabilities`` -> the kinds that it takes, of one API group and version."""

Watcher = Callable[[Kind, str | None], MetadataWatch]


class Discovery:
    """Knows which of :data:`OPTIONAL` are there, and watches their objects while they are.

    Args:
        scopes: namespaces, or ``None`` for all.
        watcher: makes a watch of a kind in a scope.
        watchdog: is told which watches there have to be.
        changed: called when there is news; it concerns every custom resource.
        seconds: between two looks.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        scopes: Sequence[str | None],
        watcher: Watcher,
        watchdog: Watchdog,
        changed: Callable[[], None],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self.found = Capabilities()
        self._api = api
        self._cache = cache
        self._scopes = scopes
        self._watcher = watcher
        self._watchdog = watchdog
        self._changed = changed
        self._seconds = seconds
        self._watches: dict[str, list[asyncio.Task[Any]]] = {}

    def capabilities(self) -> Capabilities:
        """What is known."""
        return self.found

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._seconds)
                if await self.look():
                    self._changed()
        finally:
            for name in list(self._watches):
                await self._unwatch(name)

    async def look(self) -> bool:
        """Look once; whether there is news. An API server that cannot be asked has none.

        What has come has been listed when this returns: before that, children that exist would
        look as if they were missing.
        """
        news = False
        for name, kinds in OPTIONAL.items():
            try:
                there = await self._usable(kinds)
            except ApiError as error:
                logger.warning("whether %s is there cannot be asked: %s", kinds[0].resource, error)
                continue
            if there == getattr(self.found, name):
                continue
            logger.info("%s: %s", kinds[0].resource, "there" if there else "gone")
            if there:
                await self._watch(name)
            else:
                await self._unwatch(name)
            self.found = replace(self.found, **{name: there})
            news = True
        return news

    async def _usable(self, kinds: Sequence[Kind]) -> bool:
        """Whether the API is there and we have rights on it."""
        try:
            found = await self._api.request("GET", f"/apis/{kinds[0].api_version}")
            there = {each["name"] for each in found.get("resources") or ()}
            if not {kind.plural for kind in kinds} <= there:
                return False
            for kind in kinds:
                for scope in self._scopes:
                    await self._api.request(
                        "GET", kind.path(scope), query={"limit": "1"}, accept=METADATA_LIST
                    )
        except ApiError as error:
            if error.not_found:
                return False
            if error.status == 403:
                logger.info("%s is not used: %s", kinds[0].resource, error)
                return False
            raise
        return True

    async def _watch(self, name: str) -> None:
        for kind in OPTIONAL[name]:
            for scope in self._scopes:
                self._watchdog.expect(Watch(kind.resource, scope or ""))
        self._watches[name] = [
            asyncio.create_task(self._watcher(kind, scope).run(), name=f"watch {kind.resource}")
            for kind in OPTIONAL[name]
            for scope in self._scopes
        ]
        await self._watchdog.wait_listed()

    async def _unwatch(self, name: str) -> None:
        watches = self._watches.pop(name, [])
        for task in watches:
            task.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        for kind in OPTIONAL[name]:
            for scope in self._scopes:
                self._watchdog.forget(Watch(kind.resource, scope or ""))
            for key in self._cache.keys(kind):
                self._cache.drop(key)
