"""The built-in autoscaler: a loop for each service that it scales. Only the leader has any.

It writes ``/scale`` of WorkflowServices, with a field manager of its own, and only where the number
changes. What it decided reaches the status through the reconciler, which is told of news.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from llamadeploy.types import ServiceDefinition, ServiceOptions
from llamadeploy_operator import metrics, names
from llamadeploy_operator.cluster.addresses import Addresses
from llamadeploy_operator.cluster.api import Api
from llamadeploy_operator.cluster.cache import Cache
from llamadeploy_operator.cluster.events import Recorder
from llamadeploy_operator.cluster.kinds import WORKFLOW_SERVICE
from llamadeploy_operator.cluster.scaler import PACE_SECONDS, Scaler, Target
from llamadeploy_operator.cluster.service_loads import ServiceLoads
from llamadeploy_operator.desired import Scaled, ServiceContext, autoscaled, scaling
from llamadeploy_operator.reasons import Reason

logger = logging.getLogger(__name__)

QUESTIONS = 200
"""A second, of all services together: each costs about a millisecond of one core. With more
services that work the questions about each come more seldom."""

WRITERS = 8
"""Writes of ``/scale`` at a time."""

_EVENTS = {"ScaledUp": Reason.SCALED_UP, "ScaledDown": Reason.SCALED_DOWN}

_OPTIONS = {
    "session_policy": "session_policy",
    "timeout_seconds": "timeout",
    "wait_timeout_seconds": "wait_timeout",
    "queue_timeout_seconds": "queue_timeout",
    "max_retries": "max_retries",
    "retry_on_error": "retry_on_error",
    "broadcast": "broadcast",
}
"""Field of the spec -> field of what a worker registers."""

Key = tuple[str, str]


class Autoscaler:
    """Follows the services that the reconciler shows it.

    Args:
        changed: called with namespace and name where the status has to tell something new.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        addresses: Addresses,
        loads: ServiceLoads,
        recorder: Recorder,
        changed: Callable[[str, str], None],
    ) -> None:
        self._api = api
        self._cache = cache
        self._addresses = addresses
        self._loads = loads
        self._recorder = recorder
        self._changed = changed
        self._scalers: dict[Key, Scaler] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        # What was written and is not seen yet: (resourceVersion before, replicas).
        self._written: dict[Key, tuple[str | None, int]] = {}
        self._writing = asyncio.Semaphore(WRITERS)
        self._failed: asyncio.Future[None] | None = None

    def follow(self, context: ServiceContext) -> None:
        """Scale a service as its resource says now, or stop."""
        target = target_of(context)
        key = (context.owner.namespace, context.owner.name)
        known = self._scalers.get(key)
        if known is not None and (target is None or target.uid != known.target.uid):
            self.forget(*key)
            known = None
        if target is None:
            return
        if known is not None:
            known.change(target)
            if target.policy is None:
                _forget_metric(*key)
            return
        scaler = Scaler(
            target,
            self._addresses,
            self._loads,
            self._current,
            self._write,
            self._tell,
            lambda: max(PACE_SECONDS, len(self._scalers) / QUESTIONS),
        )
        self._scalers[key] = scaler
        task = asyncio.create_task(scaler.run(), name=f"scaler {key[0]}/{key[1]}")
        task.add_done_callback(self._ended)
        self._tasks[key] = task

    def forget(self, namespace: str, name: str) -> None:
        """Stop. Idempotent."""
        key = (namespace, name)
        self._scalers.pop(key, None)
        self._written.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
            _forget_metric(namespace, name)

    def scaled(self, namespace: str, name: str) -> Scaled | None:
        """What was decided; ``None``: nothing yet."""
        scaler = self._scalers.get((namespace, name))
        return scaler.scaled if scaler is not None and scaler.target.policy is not None else None

    async def run(self) -> None:
        """Keep the loops until cancelled. Raises: what ended one of them."""
        self._failed = asyncio.get_running_loop().create_future()
        try:
            await self._failed
        finally:
            for key in list(self._tasks):
                self.forget(*key)
            await self._loads.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed is None or self._failed.done():
            return
        # A loop never ends by itself: lost leadership, or a defect.
        error = task.exception() or RuntimeError(f"{task.get_name()} has ended by itself")
        self._failed.set_exception(error)

    def _current(self, target: Target) -> int | None:
        live = self._cache.get(WORKFLOW_SERVICE, target.namespace, target.name)
        if live is None or live["metadata"]["uid"] != target.uid:
            return None
        written = self._written.get((target.namespace, target.name))
        if written is not None and written[0] == live["metadata"]["resourceVersion"]:
            return written[1]
        replicas: int = live["spec"].get("replicas", 1)
        return replicas

    async def _write(self, target: Target, replicas: int) -> None:
        key = (target.namespace, target.name)
        version = self._cache.version(WORKFLOW_SERVICE, *key)
        body: dict[str, Any] = {"spec": {"replicas": replicas}}
        async with self._writing:
            await self._api.merge_patch(
                WORKFLOW_SERVICE, *key, body, sub="scale", fieldManager=names.AUTOSCALER_MANAGER
            )
        self._written[key] = (version, replicas)
        logger.info("%s/%s: %d replicas", *key, replicas)

    async def _tell(self, target: Target, scaled: Scaled, before: int) -> None:
        self._changed(target.namespace, target.name)
        live = self._cache.get(WORKFLOW_SERVICE, target.namespace, target.name)
        reason = _EVENTS.get(scaled.reason)
        if live is not None and reason is not None:
            text = f"from {before} to {scaled.replicas} replicas: {scaled.message}"
            await self._recorder.record(live, reason, text)


def _forget_metric(namespace: str, name: str) -> None:
    with contextlib.suppress(KeyError):
        metrics.DESIRED_REPLICAS.remove(namespace, name)


def target_of(context: ServiceContext) -> Target | None:
    """What to follow of a service; ``None``: nothing, its workers make it known themselves."""
    if context.parent is None or context.conflict is not None:
        return None
    found = autoscaled(context)
    suspended = bool(context.parent.spec.suspend)
    policy = found.policy if found and found.engine == "operator" and not suspended else None
    if found is None and scaling(context).replicas > 0:
        return None
    owner = context.owner
    service = service_definition(context)
    return Target(owner.namespace, owner.name, owner.uid, context.parent, service, policy)


def service_definition(context: ServiceContext) -> ServiceDefinition:
    """What its workers would register."""
    options = {
        target: value
        for field, target in _OPTIONS.items()
        if (value := getattr(context.spec, field)) is not None
    }
    return ServiceDefinition(service_name=context.service, options=ServiceOptions(**options))
