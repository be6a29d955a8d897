"""A deployment's processes for tests: real ones, on this machine, with the environment of pods.

    cluster = Cluster(tmp_path, WORKFLOW, queue_type="redis", queue_url=..., state_store_uri=...,
                      queue_options={"exclusive_mode": True},
                      control_planes=2, orchestrators=2, services={"work": {"replicas": 2}})
    async with cluster:                       # all of them are ready
        cluster.control_planes[0].url         # http://127.0.0.1:<port>, the same after a restart
        cluster.workers["work"][1].kill()     # SIGKILL; .stop(), .pause(), .resume(), .start()
        await cluster.ready()

The message queue and the store are the caller's; nothing here starts or replaces them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

from pydantic import SecretStr

from llamadeploy.settings import PodSettings
from llamadeploy.signing import KeyRing

HOST = "127.0.0.1"

READY_SECONDS = 60.0
"""For a process to become ready: generous, for machines that do other things too."""

STOP_SECONDS = 40.0
"""For a process to end after SIGTERM, drain included."""

KEPT = ("PATH", "HOME", "PYTHONPATH", "TMPDIR")
"""What a process gets of our own environment."""


class Process:
    """One process of a deployment; made by :class:`Cluster`.

    Attributes:
        name: such as ``control-plane-0`` or ``work-1``.
        port: of a control plane's API, else 0.
        metrics_port: of ``/healthz``, ``/readyz`` and ``/metrics``.
        log: where it writes; one file for all of its lives.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        *,
        port: int,
        metrics_port: int,
        inherited: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.port = port
        self.metrics_port = metrics_port
        self.log = folder / f"{name}.log"
        self._command = list(command)
        self._environ = dict(environ)
        self._folder = folder
        self._inherited = tuple(inherited)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of a control plane's API."""
        return f"http://{HOST}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Of the probes."""
        return f"http://{HOST}:{self.metrics_port}"

    @property
    def pid(self) -> int:
        """Of its current life."""
        assert self._child is not None, f"{self.name} was never started"  # noqa: S101
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it runs (or is paused)."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Begin a life, unless it is alive; returns before it is ready."""
        if self.alive:
            return
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(  # noqa: S603 - our own program
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self._folder, env=self._environ, pass_fds=self._inherited,
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Idempotent."""
        if self._child is not None and self.alive:
            self._child.kill()
            self._child.wait(10)

    def stop(self, seconds: float = STOP_SECONDS) -> int | None:
        """SIGTERM; the exit code, ``None`` where it did not run.

        Raises:
            TimeoutError: it did not end in time, and was killed.
        """
        if self._child is None:
            return None
        self.resume()
        if self.alive:
            self._child.terminate()
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} did not stop:\n{self.tail()}") from None

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT. Idempotent."""
        if self.alive:
            os.kill(self.pid, signal.SIGCONT)

    async def ready(self, seconds: float = READY_SECONDS) -> None:
        """Return when ``/readyz`` says so.

        Raises:
            AssertionError: it ended, or did not get ready in time; has the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(self._answers):
            if not self.alive or time.monotonic() > deadline:
                state = "is not ready" if self.alive else "has ended"
                raise AssertionError(f"{self.name} {state}:\n{self.tail()}")
            await asyncio.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.metrics_url}/readyz", timeout=10) as response:  # noqa: S310
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Cluster:
    """N control planes, M orchestrators, and workers of one deployment.

    Args:
        folder: for code and logs; the processes work in it.
        workflow: source text of ``workflow.py``, or the folder where the code is.
        services: by name; ``replicas`` (1), ``path`` (``workflow:<name>``) and any field of
            :class:`llamadeploy.settings.PodSettings` for its workers, such as
            ``max_concurrent_tasks``.
        deployment, namespace: as in :class:`PodSettings`; topics and keys begin with the namespace.
        api_token: what requests must carry; see :attr:`headers`.
        queue_port: where control planes serve the queue, which is ``simple`` then.
        env: more variables for every process.
        python: what runs ``-m llamadeploy``; another installation's, say.
        settings: more fields of :class:`PodSettings` for every process.

    Attributes:
        control_planes, orchestrators: the processes.
        workers: by service, one process per replica; worker n talks to control plane n modulo their
            number, as a load balancer would choose.
    """

    def __init__(
        self,
        folder: Path,
        workflow: str | Path,
        *,
        queue_type: str,
        queue_url: str,
        state_store_uri: str,
        queue_options: Mapping[str, Any] | None = None,
        control_planes: int = 1,
        orchestrators: int = 1,
        services: Mapping[str, Mapping[str, Any]],
        deployment: str = "test",
        namespace: str = "llama_deploy.test",
        api_token: str = "test-token",  # noqa: S107 - of a deployment that only tests reach
        queue_port: int | None = None,
        env: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
        **settings: Any,
    ) -> None:
        self.folder = folder
        self._python = tuple(python)
        self.headers = {"Authorization": f"Bearer {api_token}"}
        self.deployment = deployment
        self.namespace = namespace
        self._code = workflow if isinstance(workflow, Path) else folder
        if isinstance(workflow, str):
            (folder / "workflow.py").write_text(textwrap.dedent(workflow))
        # Processes whose parent was killed see the end of this pipe, and end too.
        self._parent, self._ours = os.pipe()
        self._env = dict(env or {})
        self._queue_options = [] if queue_port is None else ["--queue-port", str(queue_port)]
        self._settings: dict[str, Any] = {
            "deployment": deployment,
            "namespace": namespace,
            "queue_type": queue_type,
            "queue_url": SecretStr(queue_url),
            "queue_options": dict(queue_options or {}),
            "state_store_uri": SecretStr(state_store_uri),
            "api_token": SecretStr(api_token),
            "default_service": next(iter(services)),
            "parent_fd": self._parent,
            **settings,
        }
        self._keys = SecretStr(KeyRing.generate().dump())
        self.control_planes = [
            self._control_plane(f"control-plane-{n}") for n in range(control_planes)
        ]
        self.orchestrators = [self._orchestrator(f"orchestrator-{n}") for n in range(orchestrators)]
        self.workers = {
            name: list(self._replicas(name, dict(options))) for name, options in services.items()
        }

    @property
    def urls(self) -> list[str]:
        """Of the control planes' APIs."""
        return [each.url for each in self.control_planes]

    @property
    def processes(self) -> list[Process]:
        """All of them."""
        workers = [each for replicas in self.workers.values() for each in replicas]
        return [*self.control_planes, *self.orchestrators, *workers]

    def start(self) -> None:
        """Start what does not run."""
        for each in self.processes:
            each.start()

    async def ready(self, seconds: float = READY_SECONDS) -> None:
        """Return when every process that is alive is ready. Raises AssertionError."""
        alive = [each for each in self.processes if each.alive]
        await asyncio.gather(*(each.ready(seconds) for each in alive))

    def kill(self) -> None:
        """SIGKILL to all of them, at once."""
        for each in self.processes:
            if each.alive:
                os.kill(each.pid, signal.SIGKILL)
        for each in self.processes:
            each.kill()

    def close(self) -> None:
        """Kill what still runs and forget the processes. Idempotent."""
        self.kill()
        for descriptor in {self._parent, self._ours} - {-1}:
            os.close(descriptor)
        self._parent = self._ours = -1

    def tails(self, lines: int = 15) -> str:
        """The ends of all logs, for a failed test."""
        return "\n".join(f"== {each.name}\n{each.tail(lines)}" for each in self.processes)

    async def __aenter__(self) -> Self:
        try:
            self.start()
            await self.ready()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    def _control_plane(self, name: str) -> Process:
        port, metrics = free_port(), free_port()
        options = ["--host", HOST, "--port", str(port), "--metrics-port", str(metrics)]
        options += self._queue_options
        return self._process(name, "control-plane", options, port, metrics, {})

    def _orchestrator(self, name: str) -> Process:
        metrics = free_port()
        options = ["--host", HOST, "--metrics-port", str(metrics)]
        return self._process(name, "orchestrator", options, 0, metrics, {})

    def _replicas(self, service: str, options: dict[str, Any]) -> Iterator[Process]:
        for number in range(options.pop("replicas", 1)):
            metrics = free_port()
            name = f"{service}-{number}"
            values = {
                "service": service,
                "replica": name,
                "control_plane_url": self.urls[number % len(self.urls)],
                "workflow_path": f"workflow:{service}",
                "source_dir": self._code,
                "signing_keys": self._keys,
            }
            values |= {"workflow_path" if k == "path" else k: v for k, v in options.items()}
            probes = {"LLAMADEPLOY_HEALTH_HOST": HOST, "LLAMADEPLOY_HEALTH_PORT": str(metrics)}
            yield self._process(name, "worker", [], 0, metrics, values, probes)

    def _process(
        self,
        name: str,
        kind: str,
        options: Sequence[str],
        port: int,
        metrics_port: int,
        values: Mapping[str, Any],
        env: Mapping[str, str] | None = None,
    ) -> Process:
        settings = PodSettings(**{**self._settings, **values})
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        return Process(
            name,
            [*self._python, "-m", "llamadeploy", kind, *options],
            {**kept, **settings.to_environ(), **(env or {}), **self._env},
            self.folder,
            port=port,
            metrics_port=metrics_port,
            inherited=(self._parent,),
        )


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now.

    Below those that systems give to outgoing connections (Linux: 32768 to 60999): such a one may be
    taken before the server that it is meant for has started.
    """
    while True:
        port = random.randint(10_000, 32_000)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
