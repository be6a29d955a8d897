"""Whether the operator still hears the cluster, and the HTTP port that says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from llamadeploy_operator import metrics
from llamadeploy_operator.watch_limits import WatchLimits, watch_limits


class Watch(NamedTuple):
    """One watch: ``deployments.apps`` in one namespace, or in all (empty)."""

    resource: str
    namespace: str


class Watchdog:
    """Watches the watchers: when each gave its last sign of life, and whether it has listed.

    A watch that is expected and never starts is as deaf as one that died.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        limits: WatchLimits = watch_limits(),  # noqa: B008 - a tuple
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._heard: dict[Watch, float] = {}
        self._silences: dict[Watch, list[float]] = {}
        self._unlisted: set[Watch] = set()
        self._all_listed = asyncio.Event()

    def expect(self, watch: Watch) -> None:
        """From now on this watch has to be heard."""
        self._heard[watch] = self._clock()
        self._unlisted.add(watch)
        self._all_listed.clear()

    def forget(self, watch: Watch) -> None:
        """This watch need not be heard any more."""
        self._heard.pop(watch, None)
        self._silences.pop(watch, None)
        self._unlisted.discard(watch)
        if not self._unlisted:
            self._all_listed.set()

    def beat(self, watch: Watch) -> None:
        """An event or bookmark came on an expected watch."""
        self._silences.pop(watch, None)
        if watch in self._heard:
            self._heard[watch] = self._clock()

    def silent(self, watch: Watch) -> None:
        """A watch was given up because nothing came on it; a list follows."""
        self._silences.setdefault(watch, []).append(self._clock())

    def listed(self, watch: Watch) -> None:
        """This watch knows the whole of its collection.

        That is a sign of life, but not for a watch that was silent twice in a row: it lives from
        its lists alone, and is as late as they are. The first list after a silence counts as of
        when that was noticed, however long it took.
        """
        silences = self._silences.get(watch, [])
        if watch in self._heard and len(silences) < 2:
            self._heard[watch] = silences[0] if silences else self._clock()
        self._unlisted.discard(watch)
        if not self._unlisted:
            self._all_listed.set()

    async def wait_listed(self) -> None:
        """Wait until each expected watch has listed once."""
        await self._all_listed.wait()

    def ready(self) -> bool:
        """Whether each expected watch has listed."""
        return not self._unlisted

    def ages(self) -> dict[Watch, float]:
        """Seconds since the last sign of life."""
        now = self._clock()
        return {watch: now - heard for watch, heard in self._heard.items()}

    def deaf(self) -> list[Watch]:
        """Watches that have not been heard for too long."""
        return sorted(watch for watch, age in self.ages().items() if age > self._limits.deaf)


class HealthServer:
    """``/healthz`` (restart me), ``/readyz`` and ``/metrics``.

    A replica that waits for the lease is healthy and ready: it watches nothing yet.
    """

    def __init__(self, watchdog: Watchdog, depth: Callable[[], int]) -> None:
        self._watchdog = watchdog
        self._depth = depth
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; with port 0 on a free one, see :attr:`port`. Raises: OSError."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        addresses = self._runner.addresses
        self.port = addresses[0][1] if addresses else port

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        deaf = self._watchdog.deaf()
        if not deaf:
            return web.Response(text="ok\n")
        lines = [
            f"{watch.resource} {watch.namespace or 'in all namespaces'}: not heard for "
            f"{self._watchdog.ages()[watch]:.0f} s"
            for watch in deaf
        ]
        return web.Response(status=503, text="\n".join(lines) + "\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._watchdog.ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="still listing\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        metrics.QUEUE_DEPTH.set(self._depth())
        for watch, age in self._watchdog.ages().items():
            metrics.WATCH_AGE.labels(watch.resource, watch.namespace).set(age)
        body = generate_latest(metrics.REGISTRY)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
