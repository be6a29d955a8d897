"""Keeps one front end running: start, watch, restart with backoff, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import aiohttp

from llamadeploy.api_server.backends.local.replica import Backoff, ReplicaState
from llamadeploy.api_server.backends.local.workers import redactor
from llamadeploy.exceptions import DeploymentError
from llamadeploy.ui.client import open_session
from llamadeploy.ui.ports import DEFAULT_PORT, give_back, take_port
from llamadeploy.ui.prepare import PreparedUi, without_logins
from llamadeploy.ui.process import FrontEndProcess

log = logging.getLogger(__name__)
output_log = logging.getLogger("llamadeploy.workers")
"""Where the output of a deployment's processes goes, each line with its origin in front."""

STOP_SECONDS = 3.0
"""Between asking the front end to end and killing it: it holds nothing that must be finished."""


class UserInterface:
    """The front end of one deployment; every start is a new process.

    Args:
        start_seconds: how long it may take until it listens.
    """

    def __init__(self, prepared: PreparedUi, *, backoff: Backoff, start_seconds: float) -> None:
        self.prepared = prepared
        self.state = ReplicaState.STOPPED
        self.restarts = 0
        self.last_exit: dict[str, Any] | None = None
        self._backoff = backoff
        self._start_seconds = start_seconds
        self._session: aiohttp.ClientSession | None = None
        self._process: FrontEndProcess | None = None
        self._port: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._failures = 0
        self._next_start: float | None = None
        redact = redactor(prepared.secrets)
        self._hide = lambda line: without_logins(redact(line))

    # -- what the proxy needs ------------------------------------------------------------------

    @property
    def session(self) -> aiohttp.ClientSession:
        """Connects to the front end; made at the first use, closed when it stops."""
        if self._session is None:
            self._session = open_session()
        return self._session

    @property
    def port(self) -> int | None:
        """Where it listens; ``None`` while it does not."""
        return self._port if self.state is ReplicaState.READY else None

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Around a request that a replacement of this front end waits for."""
        self._answering += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if self._answering == 0:
                self._idle.set()

    def problem(self) -> str:
        """Why it does not answer; empty while it should."""
        if self.state is ReplicaState.READY:
            return ""
        error = str(self.last_exit["error"]) if self.last_exit else ""
        text = f"the user interface is {self.state.value}"
        return f"{text}: {error}" if error else text

    def status(self) -> dict[str, Any]:
        """Plain data for the status page; times are seconds since the epoch."""
        running = self._process is not None and self._process.exit_code is None
        return {
            "state": self.state.value,
            "path": f"{self.prepared.base_path}/",
            "port": self._port,
            "pid": self._process.pid if self._process and running else None,
            "package_manager": self.prepared.manager.name,
            "packages": self.prepared.packages,
            "restarts": self.restarts,
            "next_start": self._next_start,
            "last_error": self.last_exit["error"] if self.last_exit else None,
            "last_exit": self.last_exit,
        }

    # -- its life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it; return once it listens, and keep it running from then on.

        Raises:
            DeploymentError: it did not get so far; nothing is left running.
        """
        await self._start_process()
        self.keep()

    def keep(self) -> None:
        """Keep it running from now on, also when the first start fails."""
        if self.state is ReplicaState.STOPPED:
            self.state = ReplicaState.STARTING
        name = f"user interface of {self.prepared.deployment}"
        self._keeper = asyncio.create_task(self._keep_running(), name=name)

    async def stop(self, drain_seconds: float = 0) -> None:
        """End it with everything it started, and its connections. Idempotent.

        Args:
            drain_seconds: what the requests that it is answering get.
        """
        if self.state is ReplicaState.READY and drain_seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain_seconds)
        self.state = ReplicaState.STOPPING
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        # The process first: a response that it breaks off is an error for whoever reads it, while
        # one whose session was closed would be waited for.
        await self._end(STOP_SECONDS)
        if self._session is not None:
            await self._session.close()
            self._session = None
        self.state = ReplicaState.STOPPED

    async def _start_process(self) -> None:
        self.state, self._next_start = ReplicaState.STARTING, None
        try:
            await self._launch()
            await asyncio.wait_for(self._listening(), self._start_seconds)
        except TimeoutError:
            port, output = self._port, self._process.output if self._process else ""
            await self._end(0)
            text = (
                f"it did not listen on port {port} within {self._start_seconds:g} s: make the "
                'script "dev" of package.json use the variable PORT, such as "vite --port $PORT"'
            )
            self._note_end(None, f"{text}\n{output}" if output else text)
            raise DeploymentError(self._last_error) from None
        except DeploymentError as error:
            code = self._process.exit_code if self._process else None
            await self._end(0)
            self._note_end(code, str(error))
            raise
        except asyncio.CancelledError:
            await self._end(0)
            raise
        self.state = ReplicaState.READY
        log.info("%s/ is served by port %s", self.prepared.base_path, self._port)

    @property
    def _last_error(self) -> str:
        """How its last run ended."""
        return str(self.last_exit["error"]) if self.last_exit else ""

    async def _launch(self) -> None:
        wanted = self.prepared.port or DEFAULT_PORT
        self._port = take_port(self._port or wanted)
        if self._port != wanted:
            log.info("%s/: port %d is taken, using %d", self.prepared.base_path, wanted, self._port)
        label = f"{self.prepared.deployment}/ui"
        self._process = await FrontEndProcess.start(
            self.prepared.manager.dev,
            self.prepared.environ(self._port),
            self.prepared.folder,
            self._port,
            hide=self._hide,
            forward=lambda line: output_log.info("[%s] %s", label, line),
        )

    async def _listening(self) -> None:
        if self._process is not None:
            await self._process.listening()

    async def _end(self, grace: float) -> None:
        """End the process that runs, if any, and free its port."""
        if self._process is not None:
            await self._process.stop(grace)
        if self._port is not None:
            give_back(self._port)

    async def _keep_running(self) -> None:
        while True:
            if self.state is ReplicaState.READY and self._process is not None:
                await self._watch(self._process)
            if self._failures:
                await self._pause()
            with contextlib.suppress(DeploymentError):
                await self._start_process()

    async def _watch(self, process: FrontEndProcess) -> None:
        since = time.monotonic()
        await process.wait()
        self.state = ReplicaState.BACKOFF
        if time.monotonic() - since >= self._backoff.healthy_after:
            self._failures = 0
        self._note_end(process.exit_code, process.describe_end())
        await self._end(0)

    async def _pause(self) -> None:
        self.state = ReplicaState.BACKOFF
        delay = self._backoff.delay(self._failures)
        self._next_start = time.time() + delay
        first_line = self._last_error.partition("\n")[0]
        log.warning("%s/: %s; next start in %.1f s", self.prepared.base_path, first_line, delay)
        await asyncio.sleep(delay)
        self.restarts += 1

    def _note_end(self, exit_code: int | None, error: str) -> None:
        self._failures += 1
        self.last_exit = {"exit_code": exit_code, "error": error, "at": time.time()}
