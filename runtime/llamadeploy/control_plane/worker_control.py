"""The border to whoever runs the workers of a deployment, where that is this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, Protocol

MAX_REPLICAS = 64
"""Of one service on one machine: each is a process with the workflow's imports in memory."""


class LogLine(NamedTuple):
    """One line of a worker's output; ``at`` in seconds since the epoch."""

    at: float
    service: str
    replica: str
    text: str


class WorkerControl(Protocol):
    """Runs the workers of one deployment. Each change names a service that exists.

    The others of the deployment are not touched by it, and no task is lost: what a stopped worker
    was running goes to another one, or waits.
    """

    def statuses(self) -> Mapping[str, dict[str, Any]]:
        """By service: ``state``, ``replicas``, ``ready_replicas``, ``restarts``, ``last_error``,
        and ``workers`` with ``name`` and ``worker_id`` of each replica."""
        ...

    async def stop(self, service: str) -> None:
        """Drain and end its workers; tasks queue until ``restart``. Idempotent.

        Raises:
            ConflictError: the deployment is being changed.
        """
        ...

    async def restart(self, service: str) -> None:
        """Replace its workers, the new ones ready before the old ones drain; start a stopped one.

        Raises:
            ConflictError: the deployment is being changed.
            DeploymentError: the new ones did not get ready; the old ones serve on.
        """
        ...

    async def scale(self, service: str, replicas: int) -> None:
        """Have that many replicas, 0 of them included, ready when this returns.

        Raises:
            ConflictError: the deployment is being changed.
            DeploymentError: a new one did not get ready; the old number serves on.
        """
        ...

    def logs(self, service: str | None, *, tail: int, follow: bool) -> AsyncIterator[list[LogLine]]:
        """Batches of what workers wrote: the last ``tail`` lines, then with ``follow`` what comes.

        An empty batch says that the source is alive.
        """
        ...
