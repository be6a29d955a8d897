"""Which pods go when a service is scaled in: those that have nothing to do."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable

from llamadeploy_operator import names
from llamadeploy_operator.cluster.addresses import Addresses
from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.cache import Cache
from llamadeploy_operator.cluster.control_planes import ControlPlaneError
from llamadeploy_operator.cluster.kept import DELETION_COST
from llamadeploy_operator.cluster.kinds import POD
from llamadeploy_operator.cluster.service_loads import ServiceLoads
from llamadeploy_operator.desired import ServiceContext, scaling

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""To find out who is busy and mark them; scaling in does not wait for longer."""

_WORKER = re.compile(r"(.+)-[0-9a-f]{8}")
"""A worker's id: its pod's name, and a suffix of this start of its process."""


class ScaleIn:
    """Marks the pods just before their Deployment gets fewer replicas. A mark that cannot be set is
    no reason to keep the pods: each of them drains, whichever it is."""

    def __init__(self, api: Api, cache: Cache, addresses: Addresses, loads: ServiceLoads) -> None:
        self._api = api
        self._cache = cache
        self._addresses = addresses
        self._loads = loads

    async def prepare(self, context: ServiceContext) -> None:
        """Mark the pods of a service, if some of them are about to go and some to stay."""
        live = context.live.get(names.worker(context.owner.name))
        if live is None or context.parent is None:
            return
        if not 0 < scaling(context).replicas < live.replicas:
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                address = await self._addresses.of(context.parent)
                load = await self._loads.load(address, context.service)
                await self._mark(context, in_flight_by_pod(load.reading.in_flight))
        except (ControlPlaneError, ApiError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            logger.warning("idle pods of %s are not marked: %s", context.service, what)

    async def _mark(self, context: ServiceContext, busy: dict[str, int]) -> None:
        label, value = names.WORKFLOW_SERVICE_LABEL, names.label_value(context.owner.name)
        for key in self._cache.labelled(POD, context.owner.namespace, label, value):
            pod = self._cache.get(*key)
            if pod is None or pod["metadata"].get("deletionTimestamp"):
                continue
            marked = (pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0")
            cost = str(busy.get(key.name, 0))
            if cost == marked:
                continue
            patch = {"metadata": {"annotations": {DELETION_COST: cost}}}
            try:
                self._cache.put(
                    POD, await self._api.merge_patch(*key, patch, fieldManager=names.MANAGER)
                )
            except ApiError as error:
                if not error.not_found:
                    raise


def in_flight_by_pod(replicas: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Tasks in work by the name of the pod, of workers' ids."""
    found: dict[str, int] = {}
    for name, tasks in replicas:
        match = _WORKER.fullmatch(name)
        pod = match[1] if match else name
        found[pod] = found.get(pod, 0) + tasks
    return found
