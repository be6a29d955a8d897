"""Stopping, restarting and scaling the services of one deployment while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from llamadeploy.api_server.backends.local.worker_logs import WorkerLogs
from llamadeploy.api_server.backends.local.workers import ServiceWorkers, Workers
from llamadeploy.control_plane.worker_control import LogLine
from llamadeploy.exceptions import ConflictError, UnsupportedFeatureError


class ServiceControl:
    """See :class:`llamadeploy.control_plane.worker_control.WorkerControl`.

    Args:
        workers: the present workers; a reload makes others.
        save: keeps what was changed for the server's next start.
        drain_seconds: what running tasks of an ending worker get.

    Attributes:
        reserve: holds the deployment for one change; raises ConflictError while there is another.
    """

    def __init__(
        self,
        workers: Callable[[], Workers],
        logs: WorkerLogs,
        save: Callable[[], Awaitable[None]],
        drain_seconds: float,
    ) -> None:
        self._workers = workers
        self._logs = logs
        self._save = save
        self._drain_seconds = drain_seconds
        self.reserve: Callable[[], AbstractAsyncContextManager[None]] | None = None

    def statuses(self) -> dict[str, dict[str, Any]]:
        """By service."""
        return {name: each.status() for name, each in self._workers().services.items()}

    async def stop(self, service: str) -> None:
        """Drain and end the workers."""
        async with self._reserved():
            await self._of(service).halt(self._drain_seconds)
            await self._save()

    async def restart(self, service: str) -> None:
        """New workers, then the old ones drain."""
        async with self._reserved():
            await self._of(service).restart(self._drain_seconds)
            await self._save()

    async def scale(self, service: str, replicas: int) -> None:
        """More or fewer workers."""
        async with self._reserved():
            await self._of(service).scale(replicas, self._drain_seconds)
            await self._save()

    def logs(self, service: str | None, *, tail: int, follow: bool) -> AsyncIterator[list[LogLine]]:
        """What workers wrote and write."""
        return self._logs.read(service, tail=tail, follow=follow)

    def _reserved(self) -> AbstractAsyncContextManager[None]:
        if self.reserve is None:
            raise ConflictError("the deployment is starting; try again when it is ready")
        return self.reserve()

    def _of(self, service: str) -> ServiceWorkers:
        workers = self._workers().services.get(service)
        if workers is None:
            raise UnsupportedFeatureError(
                f"service '{service}' registered itself: its workers are not run by this server"
            )
        return workers
