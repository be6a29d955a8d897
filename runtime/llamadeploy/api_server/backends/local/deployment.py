"""One deployment on this machine: its core, its workers, and how both come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Any, Self

import msgspec

from llamadeploy.api_server.backends.base import (
    DeploymentState,
    DeploymentStatus,
    DeployRequest,
)
from llamadeploy.api_server.backends.local.core import Core
from llamadeploy.api_server.backends.local.data_directory import (
    DeploymentFolder,
    Record,
    ServiceChange,
)
from llamadeploy.api_server.backends.local.front_end import (
    cancellable,
    front_end_record,
    prepare_front_end,
    recorded_front_end,
)
from llamadeploy.api_server.backends.local.options import LocalOptions
from llamadeploy.api_server.backends.local.prepare import (
    PreparedService,
    prepare_services,
    recorded_services,
)
from llamadeploy.api_server.backends.local.service_control import ServiceControl
from llamadeploy.api_server.backends.local.worker_logs import WorkerLogs
from llamadeploy.api_server.backends.local.workers import ServiceWorkers, Workers
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.environments.cache import EnvironmentCache
from llamadeploy.exceptions import ConfigurationError, DeploymentError, NotFoundError
from llamadeploy.sources.base import SourceContext
from llamadeploy.spec.deployment import DeploymentSpec
from llamadeploy.types import ServiceDefinition
from llamadeploy.ui.prepare import PreparedUi
from llamadeploy.ui.user_interface import UserInterface

log = logging.getLogger(__name__)


FRONT_END_DRAIN_SECONDS = 5.0
"""What an old front end gets, once the new one serves, for the requests it is answering."""


class LocalDeployment:
    """A running deployment; made by :meth:`create` or :meth:`restore`."""

    def __init__(
        self,
        spec: DeploymentSpec,
        folder: DeploymentFolder,
        core: Core,
        signing_keys: str,
        options: LocalOptions,
    ) -> None:
        self.spec = spec
        self._folder = folder
        self._core = core
        self._signing_keys = signing_keys
        self._options = options
        self._generation = 0
        self._workers = Workers([])
        self._logs = WorkerLogs(folder.logs)
        self.services = ServiceControl(
            lambda: self._workers, self._logs, self._save_changes, options.drain_seconds
        )
        core.control_plane.operations.worker_control = self.services
        self._front_end: UserInterface | None = None
        self._created_at = time.time()
        self._reloaded_at: float | None = None

    # -- making one ----------------------------------------------------------------------------

    @classmethod
    async def create(
        cls,
        spec: DeploymentSpec,
        request: DeployRequest,
        folder: DeploymentFolder,
        context: SourceContext,
        options: LocalOptions,
        watch: Callable[[Workers], None],
    ) -> Self:
        """Bring it up; return once every replica is ready and the record is written.

        Args:
            watch: gets the workers before they are ready, to tell how they come along.

        Raises:
            ConfigurationError: something of the file cannot be; found before any process started.
            DeploymentError: a service did not get ready. Nothing is left in either case.
        """
        async with AsyncExitStack() as undo:
            if await asyncio.to_thread(folder.create):
                undo.push_async_callback(asyncio.to_thread, folder.remove)
            generation, services = await _prepare(spec, folder, context, undo)
            front_end = await _prepare_front_end(spec, folder, context, generation)
            ports = await asyncio.to_thread(folder.last_ports)
            deployment = await cls._start_core(spec, folder, options, ports)
            undo.push_async_callback(deployment.stop, 0)
            await deployment._lose_earlier_workers()
            await deployment._register(spec)
            workers = deployment._make_workers(services, generation)
            deployment._workers, deployment._generation = workers, generation
            watch(workers)
            await workers.start()
            deployment._front_end = deployment._make_front_end(front_end)
            await _start_front_end(deployment._front_end)
            await deployment._write_record(request, services, generation, front_end)
            undo.pop_all()
        await asyncio.to_thread(folder.keep_only, generation)
        return deployment

    @classmethod
    async def restore(
        cls,
        spec: DeploymentSpec,
        request: DeployRequest,
        record: Record,
        folder: DeploymentFolder,
        context: SourceContext,
        options: LocalOptions,
    ) -> Self:
        """Bring it back with the code that ran; workers get ready later and are kept running.

        Raises:
            ConfigurationError: a port is taken, or code that is gone cannot be fetched again.
        """
        async with AsyncExitStack() as undo:
            generation = record.generation
            services = await cancellable(
                context,
                recorded_services,
                spec,
                folder.generation(generation),
                record.services,
                context,
                EnvironmentCache(folder.environments),
            )
            if services is None:
                generation, services = await _prepare(spec, folder, context, undo)
            front_end = await asyncio.to_thread(
                recorded_front_end, spec, folder.generation(generation), record.ui
            )
            if front_end is None:
                front_end = await _prepare_front_end(spec, folder, context, generation)
            deployment = await cls._start_core(
                spec, folder, options, (record.control_plane_port, record.queue_port)
            )
            undo.push_async_callback(deployment.stop, 0)
            await deployment._lose_earlier_workers()
            await deployment._register(spec)
            deployment._generation = generation
            deployment._workers = deployment._make_workers(services, generation, record.changes)
            deployment._front_end = deployment._make_front_end(front_end)
            await deployment._write_record(request, services, generation, front_end)
            deployment._workers.keep()
            if deployment._front_end is not None:
                deployment._front_end.keep()
            undo.pop_all()
        await asyncio.to_thread(folder.keep_only, generation)
        return deployment

    @classmethod
    async def _start_core(
        cls,
        spec: DeploymentSpec,
        folder: DeploymentFolder,
        options: LocalOptions,
        ports: tuple[int, int] = (0, 0),
    ) -> Self:
        keys = await asyncio.to_thread(folder.signing_keys)
        uri = _store_uri(spec.control_plane.state_store_uri, folder)
        core = await Core.start(spec, options, store_uri=uri, preferred_ports=ports)
        return cls(spec, folder, core, keys.dump(), options)

    async def _lose_earlier_workers(self) -> None:
        """Workers of a server that was killed end with it: their tasks need no lease to run out."""
        for worker_id in await asyncio.to_thread(self._folder.take_workers):
            await self._core.worker_lost(worker_id)

    # -- changing and ending it ----------------------------------------------------------------

    async def reload(
        self,
        spec: DeploymentSpec,
        request: DeployRequest,
        context: SourceContext,
        watch: Callable[[Workers], None],
    ) -> None:
        """Replace the services by those of ``spec``: the new workers are ready before the old
        ones drain, so no request finds nobody. What was stopped or scaled is as the file says.

        Raises:
            ConfigurationError: the file changes what a reload cannot, or is wrong.
            DeploymentError: a new service did not get ready. The old ones serve on in both cases.
        """
        self._check_reload(spec)
        async with AsyncExitStack() as undo:
            generation, services = await _prepare(spec, self._folder, context, undo)
            prepared = await _prepare_front_end(spec, self._folder, context, generation)
            workers = self._make_workers(services, generation)
            # New workers register themselves, with options that must not outlive their failure.
            undo.push_async_callback(self._register, self.spec)
            watch(workers)
            await workers.start()
            undo.push_async_callback(workers.stop, 0)
            front_end = self._make_front_end(prepared)
            if front_end is not None:
                undo.push_async_callback(front_end.stop)
            await _start_front_end(front_end)
            await self._register(spec)
            await self._write_record(request, services, generation, prepared)
            undo.pop_all()
        old_workers, old_spec, old_front_end = self._workers, self.spec, self._front_end
        self._workers, self._generation, self.spec = workers, generation, spec
        self._front_end = front_end
        self._reloaded_at = time.time()
        if old_front_end is not None:
            await old_front_end.stop(min(self._options.drain_seconds, FRONT_END_DRAIN_SECONDS))
        removed = old_spec.services.keys() - spec.services.keys()
        for name in removed:
            self.control_plane.withdraw_service(name)
            await self.control_plane.deregister_service(name)
        await old_workers.stop(self._options.drain_seconds)
        if removed:
            await self._end_tasks(removed)
        await asyncio.to_thread(self._folder.keep_only, generation)

    async def _end_tasks(self, services: Collection[str]) -> None:
        """Give a result to unfinished tasks of services that are gone: nobody else would."""
        for task in await self.control_plane.list_tasks():
            if task.service_id in services and task.session_id is not None:
                reason = f"service '{task.service_id}' was removed from the deployment"
                with contextlib.suppress(NotFoundError):  # its session was deleted meanwhile
                    await self.control_plane.cancel(task.session_id, task.task_id, reason)

    async def end_tasks(self, drain_seconds: float) -> None:
        """Take no more tasks, let those that run end within ``drain_seconds``, then cancel what is
        unfinished; whoever waits for a task has heard of its end when this returns."""
        self.control_plane.refuse_tasks(f"deployment '{self.spec.name}' is being deleted")
        await self._workers.stop(drain_seconds)
        await self.control_plane.end_all_tasks(f"deployment '{self.spec.name}' was deleted")
        if self.spec.control_plane.state_store_uri is not None:
            # The store may be a file outside of the deployment's folder.
            for session in await self.control_plane.list_sessions():
                await self.control_plane.delete_session(session.session_id)

    async def stop(self, drain_seconds: float) -> None:
        """End the front end, drain the workers, stop the core; unfinished tasks are kept."""
        if self._front_end is not None:
            await self._front_end.stop()
        await self._workers.stop(drain_seconds)
        await self._logs.aclose()
        await self._core.stop()

    # -- looking at it -------------------------------------------------------------------------

    @property
    def control_plane(self) -> ControlPlane:
        """Its use cases."""
        return self._core.control_plane

    @property
    def environments(self) -> set[str]:
        """Keys of the Python environments that its workers run in."""
        services = (each.service for each in self._workers.services.values())
        return {each.environment.key for each in services if each.environment is not None}

    @property
    def user_interface(self) -> UserInterface | None:
        """Its front end."""
        return self._front_end

    async def problems(self) -> list[str]:
        """Why it cannot take tasks. Workers do not count: without one tasks wait, and are kept."""
        return await self.control_plane.problems()

    def status(
        self,
        busy: DeploymentState | None,
        failure: str | None,
        progress: str | None = None,
        coming_up: dict[str, Any] | None = None,
    ) -> DeploymentStatus:
        """How it is.

        Args:
            failure: why the last deploy of this name failed.
            progress: what a reload is doing.
            coming_up: the services that a reload is starting.
        """
        problem = self._workers.problem()
        if self._front_end is not None:
            problem = problem or self._front_end.problem()
        state = busy or (DeploymentState.DEGRADED if problem else DeploymentState.READY)
        details: dict[str, Any] = {
            "generation": self._generation,
            "default_service": self.spec.default_service,
            "topic_namespace": self._core.namespace,
            "control_plane": {"url": self._core.http.url, "port": self._core.http.port},
            "message_queue": self._core.queue_status(),
            "services": {
                name: workers.status() for name, workers in self._workers.services.items()
            },
            "ui": self._front_end.status() if self._front_end else None,
            "ignored_fields": list(self.spec.ignored),
            "created_at": self._created_at,
            "reloaded_at": self._reloaded_at,
            "last_deploy_error": failure,
            "progress": progress if busy else None,
            "next_services": coming_up or {},
        }
        return DeploymentStatus(self.spec.name, state, problem, details)

    # -- parts ---------------------------------------------------------------------------------

    def _make_workers(
        self,
        services: dict[str, PreparedService],
        generation: int,
        changes: Mapping[str, ServiceChange] | None = None,
    ) -> Workers:
        common = self._core.worker_settings(self._signing_keys)
        return Workers(
            ServiceWorkers(
                service,
                common,
                on_start=self._folder.note_worker,
                on_lost=self._core.worker_lost,
                on_line=self._logs.add,
                generation=generation,
                change=(changes or {}).get(service.spec.name),
                backoff=self._options.backoff,
                start_seconds=self._options.ready_seconds,
            )
            for service in services.values()
        )

    def _make_front_end(self, prepared: PreparedUi | None) -> UserInterface | None:
        if prepared is None:
            return None
        return UserInterface(
            prepared, backoff=self._options.backoff, start_seconds=self._options.ready_seconds
        )

    async def _register(self, spec: DeploymentSpec) -> None:
        """Make the services known before their workers are: a task that comes meanwhile waits."""
        for service in spec.services.values():
            definition = ServiceDefinition(
                service_name=service.name,
                description=service.description or "",
                host=service.host,
                port=service.port,
                options=service.options,
            )
            self.control_plane.declare_service(definition)
            await self.control_plane.register_service(definition)
        self.control_plane.default_service = spec.default_service

    async def _write_record(
        self,
        request: DeployRequest,
        services: dict[str, PreparedService],
        generation: int,
        front_end: PreparedUi | None,
    ) -> None:
        root = self._folder.generation(generation)
        record = Record(
            text=request.text,
            base_path=str(request.base_path.absolute()),
            file=request.file,
            generation=generation,
            services={name: service.record(root) for name, service in services.items()},
            ui=front_end_record(front_end, root),
            control_plane_port=self._core.http.port,
            queue_port=self._core.queue.port if self._core.queue else 0,
            changes=self._workers.changes if generation == self._generation else {},
        )
        await asyncio.to_thread(self._folder.write_record, record)

    async def _save_changes(self) -> None:
        record = await asyncio.to_thread(self._folder.read_record)
        changed = msgspec.structs.replace(record, changes=self._workers.changes)
        await asyncio.to_thread(self._folder.write_record, changed)

    def _check_reload(self, spec: DeploymentSpec) -> None:
        for section, old, new in (
            ("control-plane", self.spec.control_plane, spec.control_plane),
            ("message-queue", self.spec.message_queue, spec.message_queue),
        ):
            before, after = old.model_dump(), new.model_dump()
            changed = sorted(key for key in before if before[key] != after[key])
            if changed:
                raise ConfigurationError(
                    f"{section}: a reload cannot change {', '.join(changed)}; "
                    "leave it as it was, or create a new deployment"
                )


async def _prepare_front_end(
    spec: DeploymentSpec, folder: DeploymentFolder, context: SourceContext, generation: int
) -> PreparedUi | None:
    """The user interface's code and packages, in the same generation."""
    return await prepare_front_end(spec, folder.generation(generation), folder.ui_packages, context)


async def _start_front_end(front_end: UserInterface | None) -> None:
    if front_end is None:
        return
    try:
        await front_end.start()
    except DeploymentError as error:
        raise DeploymentError(f"ui: {error}") from error


async def _prepare(
    spec: DeploymentSpec,
    folder: DeploymentFolder,
    context: SourceContext,
    undo: AsyncExitStack,
) -> tuple[int, dict[str, PreparedService]]:
    """A new generation with every service's code."""
    generation = await asyncio.to_thread(folder.new_generation)
    undo.push_async_callback(asyncio.to_thread, folder.remove_generation, generation)
    services = await cancellable(
        context,
        prepare_services,
        spec,
        folder.generation(generation),
        context,
        EnvironmentCache(folder.environments),
    )
    return generation, services


def _store_uri(uri: str | None, folder: DeploymentFolder) -> str:
    """The store's URI; a relative SQLite path is one in the deployment's folder."""
    if uri is None:
        return folder.state_uri
    scheme, _, path = uri.partition("://")
    if scheme == "sqlite" and path.startswith("/") and not path.startswith("//"):
        return f"sqlite:///{folder.root / path[1:]}"
    return uri
