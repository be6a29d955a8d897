"""The metrics of one worker process.

They have names of their own: what becomes of tasks is counted where it is committed, and must not
be counted twice. That is the control plane, and where a worker opens a shared store itself, the
worker.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamadeploy.metrics.deployment import PREFIX, DeploymentMetrics
from llamadeploy.metrics.instruments import OPERATION_SECONDS, Family, Histogram, Kind, Sample


class WorkerMetrics:
    """What a worker tells of itself.

    Args:
        deployment: name of the deployment.
        service: name of the service.
        commits: what the store tells of this worker's commits, where it has one open.
    """

    def __init__(
        self, deployment: str, service: str, commits: DeploymentMetrics | None = None
    ) -> None:
        self._deployment = deployment
        self._commits = commits
        self._service = service
        self._operations = Histogram(OPERATION_SECONDS)

    def operation(self, name: str, seconds: float) -> None:
        """An operation of the store took this long, with the way there and back."""
        self._operations.observe(name, seconds)

    def families(
        self, deliveries: Mapping[str, int], in_flight: int, slots: int, *, custody: int = 0
    ) -> list[Family]:
        """All families.

        Args:
            deliveries: how many ended how, see ``Worker.counts``.
            in_flight: executions that the worker holds.
            slots: how many it may carry out at once.
            custody: how many of ``in_flight`` were acknowledged to the queue already.
        """
        labels = ("deployment", "service")
        values = (self._deployment, self._service)
        outcomes: list[Sample] = [
            ((*values, name), float(count)) for name, count in deliveries.items()
        ]
        operations: list[Sample] = [
            ((self._deployment, *name), distribution) for name, distribution in self._operations
        ]
        own = [
            Family(
                PREFIX + "worker_deliveries", Kind.COUNTER,
                "Deliveries by what became of them in this worker", (*labels, "outcome"), outcomes,
            ),
            Family(
                PREFIX + "worker_tasks_in_flight", Kind.GAUGE, "Attempts that this worker holds",
                labels, [(values, float(in_flight))],
            ),
            Family(
                PREFIX + "worker_tasks_in_custody", Kind.GAUGE,
                "Attempts that this worker holds and has acknowledged to the queue already",
                labels, [(values, float(custody))],
            ),
            Family(
                PREFIX + "worker_slots", Kind.GAUGE, "Attempts that this worker may run at once",
                labels, [(values, float(slots))],
            ),
        ]  # fmt: skip
        if self._commits is not None:
            return [*own, *self._commits.counted([self._service])]
        text = "Seconds from the call of an operation of the state store until its answer"
        names = ("deployment", "operation")
        store = PREFIX + "store_operation_seconds"
        return [*own, Family(store, Kind.HISTOGRAM, text, names, operations)]
