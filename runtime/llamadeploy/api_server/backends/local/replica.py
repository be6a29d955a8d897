"""Keeps one replica of a service running: start, watch, restart with backoff, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from llamadeploy.api_server.backends.local.worker_process import WorkerProcess
from llamadeploy.exceptions import DeploymentError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between a worker's end and its next start: doubling, forgotten after a while."""

    first: float = 0.5
    longest: float = 30.0
    healthy_after: float = 60.0
    """A worker that ran this long ended for a new reason."""

    def delay(self, failures: int) -> float:
        """After ``failures`` (from 1) in a row."""
        return float(min(self.longest, self.first * 2 ** min(failures - 1, 16)))


class ReplicaState(StrEnum):
    """What a replica is doing."""

    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    """Its worker ended; the next one is started after a pause."""
    STOPPING = "stopping"
    STOPPED = "stopped"


class Replica:
    """One replica; every process it starts is a new worker with an id of its own.

    Args:
        name: such as ``echo-0``.
        launch: starts a worker process.
        on_lost: told the worker's id as soon as a process ended: its tasks go to others at once.
        start_seconds: how long a worker may take until it is ready.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Awaitable[WorkerProcess]],
        on_lost: Callable[[str], Awaitable[None]],
        *,
        backoff: Backoff,
        start_seconds: float,
    ) -> None:
        self.name = name
        self.state = ReplicaState.STARTING
        self.restarts = 0
        self._launch = launch
        self._on_lost = on_lost
        self._backoff = backoff
        self._start_seconds = start_seconds
        self._process: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._failures = 0
        self.last_exit: dict[str, Any] | None = None
        self._next_start: float | None = None

    @property
    def last_error(self) -> str:
        """How the last worker ended; empty while none did."""
        return str(self.last_exit["error"]) if self.last_exit else ""

    def status(self) -> dict[str, Any]:
        """Plain data for the status page; times are seconds since the epoch."""
        running = self._process is not None and self._process.exit_code is None
        return {
            "name": self.name,
            "state": self.state.value,
            "pid": self._process.pid if self._process and running else None,
            "worker_id": self._process.worker_id if self._process and running else None,
            "restarts": self.restarts,
            "next_start": self._next_start,
            "last_exit": self.last_exit,
        }

    async def start(self) -> None:
        """Start the first worker; return once it is ready, and keep one running from then on.

        Raises:
            DeploymentError: it did not get ready; nothing is left running.
        """
        await self._start_worker()
        self._keeper = asyncio.create_task(self._keep_running(), name=f"replica {self.name}")

    def keep(self) -> None:
        """Keep a worker running from now on, also when the first one does not get ready."""
        self._keeper = asyncio.create_task(self._keep_running(), name=f"replica {self.name}")

    async def stop(self, grace: float) -> None:
        """Drain the worker within ``grace`` seconds and start no other. Idempotent."""
        if self.state is ReplicaState.STOPPED:
            return
        self.state = ReplicaState.STOPPING
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None:
            await self._process.stop(grace)
            await self._on_lost(self._process.worker_id)
        self.state = ReplicaState.STOPPED

    async def _start_worker(self) -> None:
        self.state = ReplicaState.STARTING
        self._next_start = None
        try:
            self._process = process = await self._launch_whole()
        except DeploymentError as error:
            self._note_end(None, str(error))
            raise
        try:
            await asyncio.wait_for(process.ready(), self._start_seconds)
        except TimeoutError:
            await process.kill()
            output = f":\n{process.output}" if process.output else ""
            text = f"the worker was not ready within {self._start_seconds:g} s{output}"
            self._note_end(process, text)
            raise DeploymentError(text) from None
        except DeploymentError as error:
            self._note_end(process, str(error))
            raise
        except asyncio.CancelledError:
            await process.kill()
            raise
        self.state = ReplicaState.READY

    async def _launch_whole(self) -> WorkerProcess:
        """Cancelled in the middle, it ends the process that is about to be there."""
        launching = asyncio.ensure_future(self._launch())
        try:
            return await asyncio.shield(launching)
        except asyncio.CancelledError:
            with contextlib.suppress(DeploymentError):
                await (await launching).kill()
            raise

    async def _keep_running(self) -> None:
        while True:
            if self.state is ReplicaState.READY and self._process is not None:
                await self._watch(self._process)
            if self._failures:
                await self._pause()
            with contextlib.suppress(DeploymentError):
                await self._start_worker()

    async def _watch(self, process: WorkerProcess) -> None:
        since = time.monotonic()
        await process.wait()
        self.state = ReplicaState.BACKOFF
        if time.monotonic() - since >= self._backoff.healthy_after:
            self._failures = 0
        self._note_end(process, process.describe_end())
        await self._on_lost(process.worker_id)

    async def _pause(self) -> None:
        self.state = ReplicaState.BACKOFF
        delay = self._backoff.delay(self._failures)
        self._next_start = time.time() + delay
        log.warning("%s: %s; next start in %.1f s", self.name, _first_line(self.last_error), delay)
        await asyncio.sleep(delay)
        self.restarts += 1

    def _note_end(self, process: WorkerProcess | None, error: str) -> None:
        self._failures += 1
        exit_code = process.exit_code if process else None
        self.last_exit = {"exit_code": exit_code, "error": error, "at": time.time()}


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
