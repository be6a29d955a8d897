"""What the processes of a deployment share: their start, their end, and their probes.

Their settings come from the environment (:class:`llamadeploy.settings.PodSettings`); they end at
SIGTERM, SIGINT, or with whoever started them (``LLAMADEPLOY_PARENT_FD``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fastapi import FastAPI

from llamadeploy.exceptions import (
    ConfigurationError,
    LlamaDeployError,
    QueueUnavailableError,
    StoreUnavailableError,
)
from llamadeploy.http.serving import Check, HttpServer, probe_routes
from llamadeploy.logs import configure_logging
from llamadeploy.metrics.deployment import Collect
from llamadeploy.metrics.instruments import Family
from llamadeploy.metrics.route import metrics_router
from llamadeploy.settings import METRICS_PORT, PodSettings

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
MOST_PAUSE_SECONDS = 2.0
"""Pauses between the looks at a store or queue that is not there yet."""

_T = TypeVar("_T")


class Probes:
    """``/healthz``, ``/readyz`` and ``/metrics`` of a process, from its first moment on.

    Args:
        host: where to listen.
        port: 0 for a free one; ``None`` for 9090, or a free one where that is taken.
    """

    def __init__(self, host: str, port: int | None) -> None:
        self._host = host
        self._port = port
        self._waits = "the process is starting"
        self._ready: Check = self._waiting
        self._warnings: Check = _nothing
        self._collect: Collect = _no_metrics
        self._app = FastAPI(openapi_url=None)
        # By name: what they ask changes once the process has started.
        self._app.include_router(probe_routes(lambda: self._ready(), lambda: self._warnings()))
        self._app.include_router(metrics_router(lambda: self._collect()))
        self._server: HttpServer | None = None

    @property
    def port(self) -> int:
        """The bound port, once started."""
        assert self._server is not None  # noqa: S101 - asked for after the start
        return self._server.port

    async def start(self) -> None:
        """Bind and answer. Raises ConfigurationError: the port cannot be bound."""
        server = self._on(METRICS_PORT if self._port is None else self._port)
        try:
            await server.start()
        except ConfigurationError:
            if self._port is not None:
                raise
            server = self._on(0)
            await server.start()
            log.warning("port %d is taken: the probes are at %s", METRICS_PORT, server.url)
        self._server = server

    def _on(self, port: int) -> HttpServer:
        return HttpServer(self._app, self._host, port, setting="--metrics-port")

    async def stop(self) -> None:
        """Close the listener. Idempotent."""
        if self._server is not None:
            await self._server.stop(0)

    def wait_for(self, reason: str) -> None:
        """Why it has not started yet."""
        self._waits = reason

    def ask(self, ready: Check, metrics: Collect, warnings: Check | None = None) -> None:
        """From now on they answer.

        Args:
            ready: why the process cannot do its work, empty when it can.
            metrics: what there is to be measured.
            warnings: what is wrong although it can.
        """
        self._ready, self._collect = ready, metrics
        self._warnings = warnings or _nothing

    async def _waiting(self) -> Sequence[str]:
        return [self._waits]


async def _nothing() -> Sequence[str]:
    return []


async def _no_metrics() -> list[Family]:
    return []


async def until_up(
    attempt: Callable[[], Awaitable[_T]], probes: Probes, stop: asyncio.Event
) -> _T | None:
    """The attempt's result, once the store or queue it needs answers; ``None`` when told to stop.

    Raises:
        ConfigurationError: waiting would not help.
    """
    pause = FIRST_PAUSE_SECONDS
    while not stop.is_set():
        try:
            return await attempt()
        except (StoreUnavailableError, QueueUnavailableError) as error:
            log.warning("not started yet: %s", error)
            probes.wait_for(str(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
        pause = min(pause * 2, MOST_PAUSE_SECONDS)
    return None


def run_process(serve: Callable[[PodSettings, asyncio.Event], Awaitable[None]]) -> int:
    """Run ``serve`` with the settings of the environment until told to stop.

    Returns:
        the process's exit code: 1 where it failed, with the reason on standard error.
    """
    import uvloop

    try:
        settings = PodSettings.from_env()
        configure_logging(settings.log_format, settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_until_told(settings, serve))
    except LlamaDeployError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - for whoever reads the pod's log
        return 1
    return 0


async def serve_until_told(
    settings: PodSettings, serve: Callable[[PodSettings, asyncio.Event], Awaitable[None]]
) -> None:
    """Run ``serve`` with an event that a signal, or the parent's end, sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.parent_fd is not None:
        # Whoever started us holds the other end: its end, however it came, is ours too.
        loop.add_reader(settings.parent_fd, _parent_ended, loop, settings.parent_fd, stop)
    await serve(settings, stop)


def _parent_ended(loop: asyncio.AbstractEventLoop, fd: int, stop: asyncio.Event) -> None:
    if os.read(fd, 4096):
        return
    loop.remove_reader(fd)
    stop.set()
