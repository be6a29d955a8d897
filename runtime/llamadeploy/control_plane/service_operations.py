"""Looking at the services of a deployment, and changing their workers at run time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from llamadeploy.control_plane.loads import Loads, Trouble
from llamadeploy.control_plane.services import Services
from llamadeploy.control_plane.worker_control import LogLine, WorkerControl
from llamadeploy.exceptions import UnsupportedFeatureError
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import ServiceLoad
from llamadeploy.types import ServiceDefinition, ServiceScaling, ServiceStatus

_OF_WORKERS = ("state", "replicas", "ready_replicas", "restarts", "last_error")


class ServiceOperations:
    """Use cases about services as a whole.

    Args:
        queue_trouble: why the message queue gives nobody a task; empty when it does.

    Attributes:
        worker_control: runs the workers, where that is this process.
    """

    def __init__(self, store: StateStore, services: Services, queue_trouble: Trouble) -> None:
        self._store = store
        self._services = services
        self._loads = Loads(store, queue_trouble, lambda name: self._worker_statuses().get(name))
        self.worker_control: WorkerControl | None = None

    async def statuses(self) -> list[ServiceStatus]:
        """Every service with its workers and its unfinished work."""
        workers = self._worker_statuses()
        found = []
        for name, definition in (await self._services.all()).items():
            load = await self._store.service_load(name)
            default = name == self._services.default
            found.append(_status(definition, load, workers.get(name), default))
        return found

    async def scaling(self, name: str) -> ServiceScaling:
        """A service's unfinished work. Raises NotFoundError."""
        await self._services.get(name)
        return await self._loads.look(name)

    async def scaling_changed(self, name: str, version: str, seconds: float) -> ServiceScaling:
        """The same as soon as it differs from ``version``, or after that time. Raises
        NotFoundError."""
        await self._services.get(name)
        return await self._loads.changed(name, version, seconds)

    async def stop(self, name: str) -> None:
        """End its workers; its tasks queue.

        Raises:
            NotFoundError: no such service.
            UnsupportedFeatureError: the workers run elsewhere.
            ConflictError: the deployment is being changed.
        """
        await (await self._control(name, "stop it")).stop(name)

    async def restart(self, name: str) -> None:
        """Replace its workers by new ones, or start them again.

        Raises:
            DeploymentError: they did not get ready; and as :meth:`stop`.
        """
        await (await self._control(name, "restart it")).restart(name)

    async def scale(self, name: str, replicas: int) -> None:
        """Have that many workers. Raises as :meth:`restart`."""
        await (await self._control(name, "scale it")).scale(name, replicas)

    async def logs(
        self, name: str | None, *, tail: int, follow: bool
    ) -> AsyncIterator[list[LogLine]]:
        """What workers write, of one service or of all; see :meth:`WorkerControl.logs`.

        Raises:
            NotFoundError: no such service.
            UnsupportedFeatureError: the workers run elsewhere.
        """
        control = await self._control(name, "read their output")
        return control.logs(name, tail=tail, follow=follow)

    async def _control(self, name: str | None, what: str) -> WorkerControl:
        if name is not None:
            await self._services.get(name)
        if self.worker_control is None:
            raise UnsupportedFeatureError(
                f"this server does not run the workers of the deployment: {what} where they run "
                "(on Kubernetes with kubectl)"
            )
        return self.worker_control

    def _worker_statuses(self) -> dict[str, dict[str, Any]]:
        control = self.worker_control
        return {} if control is None else dict(control.statuses())


def _status(
    definition: ServiceDefinition,
    load: ServiceLoad,
    workers: dict[str, Any] | None,
    default: bool,
) -> ServiceStatus:
    known = {key: workers[key] for key in _OF_WORKERS} if workers is not None else {}
    return ServiceStatus(
        service_name=definition.service_name,
        description=definition.description,
        default=default,
        queued=load.queued + load.blocked,
        running=sum(load.running.values()),
        waiting=load.waiting,
        **known,
    )
