"""WorkflowServices of removed inline services: kept until their tasks have ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.cluster.addresses import Addresses
from llamadeploy_operator.cluster.api import Api
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.control_planes import ControlPlaneError, ControlPlanes
from llamadeploy_operator.cluster.kinds import WORKFLOW_SERVICE
from llamadeploy_operator.desired import DeploymentContext
from llamadeploy_operator.draining import may_end, removed_at, stamp

logger = logging.getLogger(__name__)

Json = dict[str, Any]

REASON = "the service was removed from the deployment"
REFUSAL = (
    "Service '{service}' was removed from deployment '{deployment}': it ends its tasks and takes no"
    " new one"
)


class Drains:
    """Decides which removed services stay for now.

    Args:
        limit: seconds after which tasks are ended.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        control_planes: ControlPlanes,
        addresses: Addresses,
        limit: float,
    ) -> None:
        self._api = api
        self._cache = cache
        self._control_planes = control_planes
        self._addresses = addresses
        self._limit = limit

    async def settle(self, context: DeploymentContext, keep: set[ObjectKey]) -> set[ObjectKey]:
        """See to the WorkflowServices of ``context`` that are not in ``keep``; gives those that
        are to stay for now. One that is in ``keep`` and drained goes on as before.

        Raises:
            ApiError: the API server fails; nothing is to be deleted then.
        """
        staying = set()
        for key, body in self._children(context.owner.uid):
            since = removed_at(body)
            if key in keep:
                if since is not None and not await self._taken_back(context, key, body):
                    staying.add(key)
            elif not self._has_successor(context, key, body):
                if since is None:
                    since = time.time()
                    await self._mark(key, body, stamp(since))
                if not await self._ended(context, _wire_name(key, body), since):
                    staying.add(key)
        return staying

    async def _taken_back(self, context: DeploymentContext, key: ObjectKey, body: Json) -> bool:
        """Let a service that was written back into the spec take tasks again."""
        address = await self._addresses.of(context)
        try:
            await self._control_planes.accept(address, _wire_name(key, body))
        except ControlPlaneError as error:
            logger.warning("service %s is back and takes no tasks yet: %s", key.name, error)
            return False
        await self._mark(key, body, None)
        return True

    async def _ended(self, context: DeploymentContext, service: str, since: float) -> bool:
        address = await self._addresses.of(context)
        try:
            # Said at each look: a worker that starts registers the service anew.
            refusal = REFUSAL.format(service=service, deployment=context.owner.name)
            await self._control_planes.refuse(address, service, refusal)
            depth = await self._control_planes.depth(address, service)
            if not may_end(depth, since, time.time(), self._limit):
                return False
            # Also where there seems to be none left: one may have come before the refusal.
            ended = await self._control_planes.end(address, service, REASON)
        except ControlPlaneError as error:
            logger.warning("service %s was removed and is kept: %s", service, error)
            return False
        logger.info("service %s was removed; %d tasks were ended", service, ended)
        return True

    async def _mark(self, key: ObjectKey, body: Json, text: str | None) -> None:
        metadata = {
            "uid": body["metadata"]["uid"],
            "annotations": {names.REMOVED_ANNOTATION: text},
        }
        patch = {"metadata": metadata}
        self._cache.put(
            key.kind, await self._api.merge_patch(*key, patch, fieldManager=names.MANAGER)
        )

    def _children(self, uid: str) -> Iterator[tuple[ObjectKey, Json]]:
        """Those that the operator made and nobody deletes yet."""
        yield from self._present(sorted(self._cache.owned_by(uid)))

    def _present(self, keys: Iterable[ObjectKey]) -> Iterator[tuple[ObjectKey, Json]]:
        for key in keys:
            body = self._cache.get(*key) if key.kind == WORKFLOW_SERVICE else None
            if body is None or body["metadata"].get("deletionTimestamp"):
                continue
            yield key, body

    def _has_successor(self, context: DeploymentContext, key: ObjectKey, body: Json) -> bool:
        """Whether another WorkflowService has the same service: then its tasks are that one's."""
        found = self._present(self._cache.services_of(context.owner.namespace, context.owner.name))
        return any(
            other != key and _wire_name(other, each) == _wire_name(key, body)
            for other, each in found
        )


def _wire_name(key: ObjectKey, body: Json) -> str:
    found: str = body["spec"].get("serviceName") or key.name
    return found
