"""A worker's probes and metrics. aiohttp, which a worker has loaded anyway: its memory is paid per
replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.metrics.instruments import Family


class HealthServer:
    """``GET /healthz`` (the I/O loop answers), ``GET /readyz`` (503 with reasons) and
    ``GET /metrics``.

    Args:
        problems: why the worker is not ready; empty when it is.
        metrics: what there is to be measured.
    """

    def __init__(
        self,
        problems: Callable[[], Sequence[str]],
        metrics: Callable[[], list[Family]],
        host: str,
        port: int,
    ) -> None:
        self._problems = problems
        self._metrics = metrics
        self._host = host
        self._port = port
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._prometheus)
        self._runner = web.AppRunner(app, access_log=None)

    @property
    def port(self) -> int:
        """The bound port, once started."""
        return self._port

    async def start(self) -> None:
        """Bind and answer.

        Raises:
            ConfigurationError: the port cannot be bound.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, shutdown_timeout=0)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"LLAMADEPLOY_HEALTH_PORT: cannot listen on {self._host}:{self._port}: "
                f"{error.strerror}; use another port, or 0 for a free one"
            ) from error
        self._port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the listener."""
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = list(self._problems())
        if reasons:
            return web.json_response({"status": "not ready", "reasons": reasons}, status=503)
        return web.json_response({"status": "ok", "reasons": []})

    async def _prometheus(self, request: web.Request) -> web.Response:
        # Here and not above: most workers are never asked.
        from llamadeploy.metrics.exposition import render

        accept = request.headers.get("accept", "")
        text, media_type = await asyncio.to_thread(render, self._metrics(), accept)
        return web.Response(body=text, headers={"Content-Type": media_type})
