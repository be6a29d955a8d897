"""The metrics of one deployment, as its control plane sees them.

Counters and histograms move with what the store committed (:class:`StoreObserver`); gauges are
read from store and queue at the scrape, so that they cannot drift from them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.messages import topic_name
from llamadeploy.metrics.instruments import (
    OPERATION_SECONDS,
    TASK_SECONDS,
    Counter,
    Family,
    Histogram,
    Kind,
    Sample,
)
from llamadeploy.state_stores.base import StateStore
from llamadeploy.types import TaskState

log = logging.getLogger(__name__)

PREFIX = "llamadeploy_"

MAX_ATTEMPTS = 100_000
"""Running attempts whose begin is remembered; those of workers that vanished are dropped first."""

GAUGE_SECONDS = 5.0
"""What store and queue get to answer a scrape; below Prometheus's own limit of 10 s."""

OUTCOMES = tuple(state.value for state in TaskState if state.terminal)


class DeploymentMetrics:
    """Observes a deployment's store.

    Args:
        deployment: its name, the label of every sample.
    """

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._tasks = Counter()
        self._redeliveries = Counter()
        self._dead_letters = Counter()
        self._wait = Histogram(TASK_SECONDS)
        self._run = Histogram(TASK_SECONDS)
        self._operations = Histogram(OPERATION_SECONDS)
        self._running: dict[str, float] = {}
        self._scraping = asyncio.Lock()

    # -- StoreObserver -------------------------------------------------------------------------
    def operation(self, name: str, seconds: float) -> None:
        """See :class:`llamadeploy.state_stores.observation.StoreObserver`, as for all of these."""
        self._operations.observe(name, seconds)

    def started(self, service: str, task_id: str, waited: float | None) -> None:
        if waited is not None:
            self._wait.observe(service, max(waited, 0.0))
        self._running[task_id] = time.monotonic()
        if len(self._running) > MAX_ATTEMPTS:
            del self._running[next(iter(self._running))]

    def ran(self, service: str, task_id: str) -> None:
        began = self._running.pop(task_id, None)
        if began is not None:
            self._run.observe(service, time.monotonic() - began)

    def ended(self, service: str, task_id: str, outcome: str) -> None:
        self._running.pop(task_id, None)
        self._tasks.add(service, outcome)

    def redelivered(self, service: str) -> None:
        self._redeliveries.add(service)

    def dead_letter(self, service: str) -> None:
        self._dead_letters.add(service)

    # -- scrape --------------------------------------------------------------------------------
    async def collect(
        self, store: StateStore, queue: MessageQueue, namespace: str, services: Iterable[str]
    ) -> list[Family]:
        """All families. Gauges whose source does not answer are left out: no number is better
        than a wrong one. Scrapes take turns, so that many of them cost the store no more."""
        names = sorted(services)
        async with self._scraping:
            gauges = await self._answers(self._state_gauges(store), "state store")
            gauges += await self._answers(self._depth(queue, namespace, names), "message queue")
        return [*self.counted(names), *gauges]

    def counted(self, services: Sequence[str]) -> list[Family]:
        """The families that this process counts itself."""
        # Known services begin at 0, so that a rate sees the first one that counts.
        ends = [(service, outcome) for service in services for outcome in OUTCOMES]
        alone = [(service,) for service in services]
        return [
            self._family(
                "tasks", Kind.COUNTER, "Tasks that ended, by outcome",
                self._tasks.from_zero(ends), "service", "outcome",
            ),
            self._family(
                "task_wait_seconds", Kind.HISTOGRAM,
                "Seconds from a task's creation until its first attempt", self._wait, "service",
            ),
            self._family(
                "task_run_seconds", Kind.HISTOGRAM,
                "Seconds from an attempt's begin until its result, error or park", self._run,
                "service",
            ),
            self._family(
                "redeliveries", Kind.COUNTER,
                "Tasks handed out again because an attempt was lost, or failed with retries left",
                self._redeliveries.from_zero(alone), "service",
            ),
            self._family(
                "dead_letters", Kind.COUNTER, "Tasks and messages that were given up",
                self._dead_letters.from_zero(alone), "service",
            ),
            self._family(
                "store_operation_seconds", Kind.HISTOGRAM,
                "Seconds from the call of an operation of the state store until its commit",
                self._operations, "operation",
            ),
        ]  # fmt: skip

    async def _state_gauges(self, store: StateStore) -> list[Family]:
        counts = await store.counts()
        return [
            self._family(name, Kind.GAUGE, text, [((), float(counts[key]))])
            for name, key, text in (
                ("tasks_queued", "queued", "Tasks that no attempt runs and that wait to be run"),
                ("tasks_in_flight", "running", "Tasks that an attempt runs now"),
                ("tasks_parked", "waiting", "Tasks that wait for an event and hold no worker"),
                ("outbox_tasks", "outbox", "Tasks whose message has yet to reach the queue"),
            )
        ]

    async def _depth(
        self, queue: MessageQueue, namespace: str, services: Sequence[str]
    ) -> list[Family]:
        samples: list[Sample] = []
        for service in services:
            topic = topic_name(namespace, service)
            depth, ready = await queue.depth(topic), await queue.ready(topic)
            samples.append(((service, "ready"), float(ready)))
            samples.append(((service, "unacked"), float(max(depth - ready, 0))))
        text = "Messages of a service: ready to be taken, or taken and not yet acknowledged"
        return [self._family("queue_depth", Kind.GAUGE, text, samples, "service", "state")]

    async def _answers(self, question: Awaitable[list[Family]], whom: str) -> list[Family]:
        try:
            return await asyncio.wait_for(question, GAUGE_SECONDS)
        except (LlamaDeployError, TimeoutError) as error:
            log.warning("metrics of %s without those of the %s: %s", self._deployment, whom, error)
            return []

    def _family(
        self, name: str, kind: Kind, text: str, samples: Iterable[Sample], *labels: str
    ) -> Family:
        return Family(
            PREFIX + name,
            kind,
            text,
            ("deployment", *labels),
            [((self._deployment, *values), value) for values, value in samples],
        )


Collect = Callable[[], Awaitable[list[Family]]]
"""What a scrape asks for."""
