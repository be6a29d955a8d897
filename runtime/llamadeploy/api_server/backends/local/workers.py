"""All worker processes of one generation of a deployment."""

from __future__ import annotations

import asyncio
import json
import logging
import posixpath
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from llamadeploy.api_server.backends.local.data_directory import ServiceChange
from llamadeploy.api_server.backends.local.environment import worker_environ
from llamadeploy.api_server.backends.local.prepare import PreparedService
from llamadeploy.api_server.backends.local.replica import Backoff, Replica, ReplicaState
from llamadeploy.api_server.backends.local.worker_process import WorkerProcess
from llamadeploy.exceptions import ConflictError, DeploymentError
from llamadeploy.settings import LogFormat, PodSettings
from llamadeploy.spec.deployment import ServiceSpec

log = logging.getLogger(__name__)
worker_log = logging.getLogger("llamadeploy.workers")
"""What worker processes write themselves, each line with its replica in front."""


class ServiceWorkers:
    """The replicas of one service.

    Args:
        common: the settings that every worker of the deployment has.
        on_start: told a worker's id before its process is started, in a thread.
        on_lost: told it as soon as the process ended.
        on_line: gets each line a worker writes, with the service's and the replica's name.
        change: how many replicas there are, where that is not what the file says.
    """

    def __init__(
        self,
        service: PreparedService,
        common: PodSettings,
        *,
        on_start: Callable[[str], None],
        on_lost: Callable[[str], Awaitable[None]],
        generation: int,
        on_line: Callable[[str, str, str], None],
        backoff: Backoff,
        start_seconds: float,
        change: ServiceChange | None = None,
    ) -> None:
        self.service = service
        self._common = common
        self._on_start = on_start
        self._generation = generation
        self._on_lost = on_lost
        self._on_line = on_line
        self._backoff = backoff
        self._start_seconds = start_seconds
        self._wanted = service.spec.replicas if change is None else change.replicas
        self.stopped = change is not None and change.stopped
        self.replicas = [] if self.stopped else self._make(range(self._wanted))

    @property
    def change(self) -> ServiceChange | None:
        """How it differs from the file, to be the same after a restart of the server."""
        if not self.stopped and self._wanted == self.service.spec.replicas:
            return None
        return ServiceChange(replicas=self._wanted, stopped=self.stopped)

    async def scale(self, replicas: int, grace: float) -> None:
        """Have that many replicas; those that are too many drain, one that was stopped starts.

        Raises:
            DeploymentError: a new one did not get ready; everything is as before.
        """
        kept, ending = self.replicas[:replicas], self.replicas[replicas:]
        added = self._make(range(len(kept), replicas))
        await start_all(dict.fromkeys(added, self.service.spec.name))
        self.replicas, self._wanted, self.stopped = [*kept, *added], replicas, False
        await asyncio.gather(*(each.stop(grace) for each in ending))

    async def restart(self, grace: float) -> None:
        """Replace every replica, once the new ones are ready.

        Raises:
            ConflictError: it was scaled to none.
            DeploymentError: a new one did not get ready; everything is as before.
        """
        if not self._wanted:
            raise ConflictError(
                f"service '{self.service.spec.name}' was scaled to 0 replicas: scale it up instead"
            )
        new = self._make(range(self._wanted))
        await start_all(dict.fromkeys(new, self.service.spec.name))
        old, self.replicas, self.stopped = self.replicas, new, False
        await asyncio.gather(*(each.stop(grace) for each in old))

    async def halt(self, grace: float) -> None:
        """Drain and end every replica, until :meth:`restart` or :meth:`scale`. Idempotent."""
        self.stopped = True
        await asyncio.gather(*(each.stop(grace) for each in self.replicas))
        self.replicas = []

    def _make(self, numbers: Iterable[int]) -> list[Replica]:
        names = [f"{self.service.spec.name}-{number}" for number in numbers]
        return [
            Replica(
                name,
                self._launcher(name),
                self._on_lost,
                backoff=self._backoff,
                start_seconds=self._start_seconds,
            )
            for name in names
        ]

    def status(self) -> dict[str, Any]:
        """Plain data for the status page."""
        states = [replica.state for replica in self.replicas]
        ready = states.count(ReplicaState.READY)
        latest = max(
            (each.last_exit for each in self.replicas if each.last_exit),
            key=lambda exit_: float(exit_["at"]),
            default=None,
        )
        return {
            "state": "ready" if states and ready == len(states) else states_summary(states),
            "replicas": self._wanted,
            "ready_replicas": ready,
            "restarts": sum(replica.restarts for replica in self.replicas),
            "last_error": latest["error"] if latest else None,
            "source": dict(self.service.origin),
            "environment": self.service.environment.key if self.service.environment else None,
            "workers": [replica.status() for replica in self.replicas],
        }

    def _launcher(self, replica: str) -> Callable[[], Awaitable[WorkerProcess]]:
        async def launch() -> WorkerProcess:
            worker_id = f"{replica}-g{self._generation}-{secrets.token_hex(4)}"
            settings = self._settings(replica, worker_id)
            hide = redactor((*self.service.secrets, *_settings_secrets(settings)))
            try:
                await asyncio.to_thread(self._on_start, worker_id)
            except OSError as error:
                raise DeploymentError(f"the data directory cannot be written: {error}") from error
            label = f"{settings.deployment}/{replica}"

            def forward(line: str) -> None:
                worker_log.info(log_line(label, line, settings.log_format))
                self._on_line(self.service.spec.name, replica, line)

            environ = worker_environ(settings, self.service.variables)
            environment = self.service.environment
            if environment is not None:
                environ = environment.activated(environ)
            return await WorkerProcess.start(
                worker_id,
                environ,
                self.service.root,
                hide=hide,
                forward=forward,
                python=environment.python if environment else sys.executable,
            )

        return launch

    def _settings(self, replica: str, worker_id: str) -> PodSettings:
        spec = self.service.spec
        return self._common.model_copy(
            update={
                "service": spec.name,
                "replica": replica,
                "worker_id": worker_id,
                "workflow_path": _path_in_source(spec),
                "source_dir": self.service.root,
                "max_concurrent_tasks": spec.max_concurrent_tasks,
                "session_policy": spec.session_policy,
                "task_timeout_seconds": spec.timeout,
                "wait_timeout_seconds": spec.wait_timeout,
                "queue_timeout_seconds": spec.queue_timeout,
                "max_retries": spec.max_retries,
                "retry_on_error": spec.retry_on_error,
                "broadcast": spec.broadcast,
            }
        )


class Workers:
    """The workers of every service of one generation; they start and stop together."""

    def __init__(self, services: Iterable[ServiceWorkers]) -> None:
        self.services = {each.service.spec.name: each for each in services}

    async def start(self) -> None:
        """Return once every replica of every service is ready.

        Raises:
            DeploymentError: one did not get ready; the message names it. None is left running.
        """
        await start_all(
            {
                replica: name
                for name, service in self.services.items()
                for replica in service.replicas
            }
        )

    def keep(self) -> None:
        """Start every replica and keep it running, without waiting until it is ready."""
        for service in self.services.values():
            for replica in service.replicas:
                replica.keep()

    async def stop(self, grace: float) -> None:
        """Drain every worker within ``grace`` seconds, then kill it. Idempotent."""
        replicas = [each for service in self.services.values() for each in service.replicas]
        await asyncio.gather(*(replica.stop(grace) for replica in replicas))

    @property
    def changes(self) -> dict[str, ServiceChange]:
        """Services that are not as the file says, by name."""
        changes = {name: service.change for name, service in self.services.items()}
        return {name: change for name, change in changes.items() if change is not None}

    def problem(self) -> str:
        """Why a replica is not ready; empty when all are."""
        for name, service in self.services.items():
            for replica in service.replicas:
                if replica.state is not ReplicaState.READY:
                    text = f"service '{name}': replica {replica.name} is {replica.state.value}"
                    return f"{text}: {replica.last_error}" if replica.last_error else text
        return ""


async def start_all(replicas: Mapping[Replica, str]) -> None:
    """Return once every replica, given with its service's name, is ready.

    Raises:
        DeploymentError: one did not get ready; the message names it. None is left running.
    """
    starting = {
        asyncio.create_task(replica.start(), name=f"start {replica.name}"): name
        for replica, name in replicas.items()
    }
    if not starting:
        return
    try:
        done, _ = await asyncio.wait(starting, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            error = task.exception()
            if isinstance(error, DeploymentError):
                raise DeploymentError(f"service '{starting[task]}': {error}") from error
            if error is not None:
                raise error
    except BaseException:
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(replica.stop(0) for replica in replicas))
        raise


def _path_in_source(spec: ServiceSpec) -> str:
    """The workflow's path; one that repeats a source's nested folder (``source.name: apps/echo``,
    ``path: apps/echo/workflow:attr``) is shortened to start inside of it."""
    folder = posixpath.normpath(spec.source.name or ".")
    nested = "/" in folder and ".." not in folder.split("/")
    return spec.path.removeprefix(f"{folder}/") if nested else spec.path


def log_line(label: str, line: str, log_format: LogFormat) -> str:
    """A line of a worker's output, saying which worker wrote it; JSON stays JSON."""
    if log_format == "text":
        return f"[{label}] {line}"
    try:
        record = json.loads(line)
    except ValueError:
        record = line
    if not isinstance(record, dict):
        record = {"message": line}
    return json.dumps({**record, "worker": label}, ensure_ascii=False)


def states_summary(states: list[ReplicaState]) -> str:
    """The state of a service whose replicas are not all ready."""
    for state in (ReplicaState.STOPPING, ReplicaState.BACKOFF, ReplicaState.STARTING):
        if state in states:
            return state.value
    return ReplicaState.STOPPED.value


def redactor(secret_values: tuple[str, ...]) -> Callable[[str], str]:
    """A function that blacks the values out of a text."""

    def hide(text: str) -> str:
        for value in secret_values:
            if value in text:
                text = text.replace(value, "***")
        return text

    return hide


def _settings_secrets(settings: PodSettings) -> tuple[str, ...]:
    fields = (settings.api_token, settings.signing_keys)
    return tuple(each.get_secret_value() for each in fields if each is not None)
