"""One service, as long as it is scaled: ask, decide, write.

A service that nobody scales and that has no worker is here too: it is only kept known to its
control plane, so that tasks for it are taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from llamadeploy.types import ServiceDefinition
from llamadeploy_operator import metrics
from llamadeploy_operator.autoscaling import Decision, History, Policy, decide
from llamadeploy_operator.cluster.addresses import Addresses
from llamadeploy_operator.cluster.api import ApiError
from llamadeploy_operator.cluster.control_planes import Address, ControlPlaneError
from llamadeploy_operator.cluster.service_loads import Load, ServiceLoads, UnknownServiceError
from llamadeploy_operator.desired import Parent, Scaled

logger = logging.getLogger(__name__)

WAIT_SECONDS = 30.0
"""The longest poll; proxies drop requests that are silent for a minute."""

PACE_SECONDS = 1.0
"""Between two questions while a service works. At zero there is none: the first task of an idle
service is answered for at once."""

KNOWN_SECONDS = 30.0
"""How often a service that is only kept known is looked for."""

RETRY_FIRST, RETRY_LIMIT = 0.5, 10.0

SILENT_SECONDS = 5.0
"""A control plane that cannot be asked for this long is told of: shorter than that it restarts."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is scaled.

    Attributes:
        namespace, name: the WorkflowService.
        parent: the Deployment, for its control plane's address.
        service: what its control plane has to know of it.
        policy: ``None``: it is only kept known.
    """

    namespace: str
    name: str
    uid: str
    parent: Parent
    service: ServiceDefinition
    policy: Policy | None


class Scaler:
    """The loop of one service.

    Args:
        current: ``spec.replicas`` as it is known.
        write: changes it. Raises ApiError.
        told: takes a decision that is news, with what was there before.
        pace: seconds between two questions while the service works.
    """

    def __init__(
        self,
        target: Target,
        addresses: Addresses,
        loads: ServiceLoads,
        current: Callable[[Target], int | None],
        write: Callable[[Target, int], Awaitable[None]],
        told: Callable[[Target, Scaled, int], Awaitable[None]],
        pace: Callable[[], float] = lambda: PACE_SECONDS,
    ) -> None:
        self.target = target
        self.scaled: Scaled | None = None
        self._addresses = addresses
        self._loads = loads
        self._current = current
        self._write = write
        self._told = told
        self._pace = pace
        self._registered: ServiceDefinition | None = None
        self._history = History()
        self._version = ""
        self._look_again = 0.0
        self._failures = 0
        self._heard_at = time.monotonic()
        self._changed = asyncio.Event()

    def change(self, target: Target) -> None:
        """From now on like this; what is asked now is asked anew where that matters."""
        if target != self.target:
            self.target = target
            self._changed.set()

    async def run(self) -> None:
        """Scale until cancelled."""
        while True:
            self._changed.clear()
            began = time.monotonic()
            load, trouble = await self._ask()
            if self._changed.is_set():
                continue
            pause = await self._step(load, trouble)
            await self._pause(began + pause - time.monotonic())

    async def _ask(self) -> tuple[Load | None, str | None]:
        """What is known, or why it is not."""
        asking = asyncio.ensure_future(self._poll())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((asking, changed), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return None, "the service has changed"
            found = await asking
        except (ControlPlaneError, ApiError) as error:
            self._failures += 1
            self._version = ""
            return None, str(error)
        finally:
            asking.cancel()
            changed.cancel()
        self._failures = 0
        self._version = found.version
        if found.problem is not None:
            return None, found.problem
        self._heard_at = time.monotonic()
        return found, None

    async def _poll(self) -> Load:
        target = self.target
        address = await self._addresses.of(target.parent)
        if self._registered != target.service:
            await self._register(address)
        name = target.service.service_name
        wait = min(WAIT_SECONDS, self._look_again) if target.policy is not None else 0.0
        try:
            return await self._loads.load(address, name, self._version, wait)
        except UnknownServiceError:
            # Its control plane keeps nothing, and was started anew.
            await self._register(address)
            return await self._loads.load(address, name)

    async def _register(self, address: Address) -> None:
        service = self.target.service
        await self._loads.register(address, service)
        self._registered = service

    async def _step(self, load: Load | None, trouble: str | None) -> float:
        """Decide; seconds from one question to the next one."""
        target, retry = self.target, self._retry()
        current = self._current(target)
        if target.policy is None or current is None:
            return KNOWN_SECONDS if load is not None else retry
        reading = load.reading if load is not None else None
        decision = decide(target.policy, reading, current, self._history, time.time())
        metrics.DESIRED_REPLICAS.labels(target.namespace, target.name).set(decision.replicas)
        try:
            if decision.replicas != current:
                await self._write(target, decision.replicas)
        except ApiError as error:
            logger.warning("%s/%s is not scaled: %s", target.namespace, target.name, error)
            self._failures += 1
            return self._retry()
        self._history = decision.history
        self._look_again = decision.look_again_seconds
        await self._tell(decision, current, trouble)
        if load is None:
            return retry
        idle = current == decision.replicas == 0 and not load.reading.backlog
        return 0.0 if idle and self._version else self._pace()

    async def _tell(self, decision: Decision, current: int, trouble: str | None) -> None:
        if trouble is not None and time.monotonic() - self._heard_at < SILENT_SECONDS:
            return
        capped = decision.limited == "TooManyReplicas"
        message = decision.message if trouble is None else trouble
        found = Scaled(decision.replicas, decision.reason, message, trouble, capped)
        if self.scaled is None or _news(self.scaled, found):
            self.scaled = found
            await self._told(self.target, found, current)

    def _retry(self) -> float:
        limit = min(RETRY_FIRST * 2.0 ** min(self._failures, 16), RETRY_LIMIT)
        return limit * random.uniform(0.8, 1.2)  # noqa: S311

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            waiting = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((waiting,), timeout=seconds)
            waiting.cancel()


def _news(before: Scaled, after: Scaled) -> bool:
    """Not what only went on, nor other words for the same."""
    return (before.replicas, before.unavailable is None, before.capped) != (
        after.replicas,
        after.unavailable is None,
        after.capped,
    )
