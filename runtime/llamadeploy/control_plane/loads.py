"""How much work services have, and waiting until that changes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import ServiceLoad
from llamadeploy.types import ReplicaLoad, ServiceScaling

RESYNC_SECONDS = 5.0
"""Whoever waits looks again after this time, whether or not something was heard: a wake-up may get
lost, and none tells of the message queue."""

PAUSE_SECONDS = 0.1
"""Between two looks while tasks come and go all the time."""

PAUSE_FACTOR = 10
"""After a look that took longer the pause is longer: a tenth of the time at most is for looking."""

TROUBLE_SECONDS = 2.0
"""For how long the message queue's answer is believed."""

Trouble = Callable[[], Awaitable[list[str]]]
"""Why the message queue gives nobody a task; empty when it does."""

Workers = Callable[[str], dict[str, Any] | None]
"""The workers of a service that this process runs; ``None`` where they run elsewhere."""


class Loads:
    """The work of each service, as the store counts it: the same number in every control plane."""

    def __init__(self, store: StateStore, queue_trouble: Trouble, workers: Workers) -> None:
        self._store = store
        self._queue_trouble = queue_trouble
        self._workers = workers
        self._problem: str | None = None
        self._asked_at = float("-inf")

    async def look(self, service: str) -> ServiceScaling:
        """The work now.

        Raises:
            StoreUnavailableError: it cannot be known.
        """
        load = await self._store.service_load(service)
        problem = await self._queue_problem()
        return service_scaling(load, self._workers(service), problem, time.time())

    async def changed(self, service: str, version: str, seconds: float) -> ServiceScaling:
        """As :meth:`look`, as soon as it is not ``version`` any more, or after ``seconds``.

        Raises:
            StoreUnavailableError: it cannot be known (any more).
        """
        deadline = time.monotonic() + seconds
        with self._store.follow_all() as follower:
            while True:
                began = time.monotonic()
                found = await self.look(service)
                now = time.monotonic()
                if found.version != version or now >= deadline:
                    return found
                await follower.changed(min(RESYNC_SECONDS, deadline - now))
                await _until(now + max(PAUSE_SECONDS, PAUSE_FACTOR * (now - began)), deadline)

    async def _queue_problem(self) -> str | None:
        now = time.monotonic()
        if now - self._asked_at >= TROUBLE_SECONDS:
            self._asked_at = now
            trouble = await self._queue_trouble()
            self._problem = "; ".join(trouble) or None
        return self._problem


def service_scaling(
    load: ServiceLoad, workers: dict[str, Any] | None, problem: str | None, now: float
) -> ServiceScaling:
    """What an autoscaler reads.

    Args:
        workers: the status of those that this process runs; others are known by what they do.
        now: seconds since the epoch.
    """
    since = load.oldest_queued_at
    if workers is None:
        replicas = [ReplicaLoad(name=name, in_flight=n) for name, n in sorted(load.running.items())]
    else:
        replicas = [
            ReplicaLoad(name=each["name"], in_flight=load.running.get(each["worker_id"] or "", 0))
            for each in workers["workers"]
        ]
    running = sum(load.running.values())
    found = ServiceScaling(
        ready=load.queued,
        unacked=max(0, running - load.custody),
        custody=load.custody,
        parked=load.waiting + load.blocked,
        backlog=load.queued + running,
        replicas=replicas,
        problem=problem,
    )
    found.version = hashlib.sha256(found.model_dump_json().encode()).hexdigest()[:16]
    found.oldest_seconds = 0.0 if since is None else max(0.0, now - since)
    return found


async def _until(moment: float, deadline: float) -> None:
    await asyncio.sleep(min(moment, deadline) - time.monotonic())
