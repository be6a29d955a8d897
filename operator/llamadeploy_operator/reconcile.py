"""One custom resource, once: parse -> desired -> apply -> prune -> observe -> status.

Level-based: it looks at what there is and what should be, never at what happened. Creation, change,
restart, drift and resync all take this way; deletion is the garbage collector's.
"""

from __future__ import annotations

import datetime
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from llamadeploy.logs import log_context
from llamadeploy_operator import metrics
from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.apply import Applier, ChangeSet, key_of, prune
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.drains import Drains
from llamadeploy_operator.cluster.events import Recorder
from llamadeploy_operator.cluster.kinds import BY_KIND, DEPLOYMENT, WORKFLOW_SERVICE
from llamadeploy_operator.cluster.observe import observe
from llamadeploy_operator.cluster.secrets import InternalSecrets
from llamadeploy_operator.cluster.status import write_status
from llamadeploy_operator.desired import (
    DeploymentContext,
    ServiceContext,
    deployment_children,
    notices,
    service_children,
)
from llamadeploy_operator.desired.children import kept
from llamadeploy_operator.errors import Problem, SpecError
from llamadeploy_operator.gather import Gathered, Gatherer
from llamadeploy_operator.reasons import Condition, Reason
from llamadeploy_operator.routing import Key, Routes
from llamadeploy_operator.status import deployment_status, service_status

logger = logging.getLogger(__name__)

#: Seconds after which that is tried again which no event may tell of: a Secret that could not be
#: read, a refused child.
LOOK_AGAIN = 30.0
#: Seconds after which a control plane is asked again how much of a removed service is left.
DRAIN_LOOK = 5.0

Json = Mapping[str, Any]


class Reconciler:
    """Reconciles one key at a time; the queue sees to it that no key runs twice at once."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        routes: Routes,
        gatherer: Gatherer,
        events: Recorder,
        drains: Drains,
        resync_seconds: float,
    ) -> None:
        self._api = api
        self._cache = cache
        self._routes = routes
        self._gatherer = gatherer
        self._events = events
        self._drains = drains
        self._resync = resync_seconds
        self._applier = Applier(api, cache)
        self._secrets = InternalSecrets(api, cache)

    async def __call__(self, key: Key) -> float | None:
        """Seconds after which to look again, or ``None`` where the resource is gone.

        Raises:
            ApiError: the API server fails; to be tried again with backoff.
        """
        with log_context(object=str(key)), metrics.RECONCILE_SECONDS.labels(key.kind).time():
            try:
                return await self._reconcile(key)
            except ApiError:
                metrics.RECONCILE_ERRORS.labels(key.kind).inc()
                raise

    async def _reconcile(self, key: Key) -> float | None:
        kind = DEPLOYMENT if key.kind == "Deployment" else WORKFLOW_SERVICE
        live = self._cache.get(kind, key.namespace, key.name)
        if live is None or live["metadata"].get("deletionTimestamp"):
            self._routes.consumes(key, set())
            return None
        gathered, changes, context = Gathered(), ChangeSet(), None
        try:
            context = await self._context(live, gathered)
            await self._carry_out(live, context, changes)
        except SpecError as error:
            changes.problems.append(error.problem)
        except ApiError as error:
            # Said once, so that people see why nothing moves; the queue tries again.
            await self._report(live, context, [_cluster_problem(error)])
            raise
        finally:
            self._routes.consumes(key, gathered.reads)
        if changes.changed:
            logger.info("applied %d, deleted %d", len(changes.applied), len(changes.deleted))
        await self._report(live, context, gathered.problems + changes.problems)
        hurry = gathered.unreadable or changes.waiting or changes.problems
        # Spread, so that what was seen together at the start does not come back together.
        resync = self._resync * random.uniform(0.9, 1.1)  # noqa: S311
        if changes.draining:
            return min(DRAIN_LOOK, resync)
        return min(LOOK_AGAIN, resync) if hurry else resync

    async def _context(self, live: Json, gathered: Gathered) -> DeploymentContext | ServiceContext:
        if live["kind"] == "Deployment":
            return await self._gatherer.deployment(live, gathered)
        return await self._gatherer.service(live, gathered)

    async def _carry_out(
        self, live: Json, context: DeploymentContext | ServiceContext, changes: ChangeSet
    ) -> None:
        if isinstance(context, DeploymentContext):
            children = deployment_children(context)
            await self._secrets.ensure(context, changes)
        else:
            children = service_children(context)
        keep = {ObjectKey(BY_KIND[kind], context.owner.namespace, name)
                for kind, name in kept(context)}  # fmt: skip
        for manifest in children:
            keep.add(key_of(manifest))
            await self._applier.apply(manifest, changes)
        if not changes.problems:
            if isinstance(context, DeploymentContext):
                changes.draining |= await self._drains.settle(context, keep)
                keep |= changes.draining
            uid = live["metadata"]["uid"]
            changes.deleted += await prune(self._api, self._cache, uid, keep)

    async def _report(
        self,
        live: Json,
        context: DeploymentContext | ServiceContext | None,
        problems: list[Problem],
    ) -> None:
        """Write the status, and tell in an Event what has newly become wrong or right."""
        metadata = live["metadata"]
        of_deployment = live["kind"] == "Deployment"
        observed = observe(
            self._cache,
            metadata["namespace"],
            metadata["name"],
            metadata["uid"],
            services=of_deployment,
        )
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        build: Callable[..., dict[str, Any]] = deployment_status
        kind = DEPLOYMENT
        if not of_deployment:
            build, kind = service_status, WORKFLOW_SERVICE
        status = build(live, context, observed, problems, now)
        key = ObjectKey(kind, metadata["namespace"], metadata["name"])
        if await write_status(self._api, self._cache, key, live, status):
            told = news(live.get("status") or {}, status)
            if not live.get("status") and isinstance(context, DeploymentContext):
                told += [(str(reason), text, True) for reason, text in notices(context)]
            for reason, message, warning in told:
                await self._events.record(
                    live, reason, message, kind="Warning" if warning else "Normal"
                )


def news(old: Json, new: Json) -> list[tuple[str, str, bool]]:
    """What a person would want to know of a new status: ``(reason, message, is a warning)``."""
    before = {item["type"]: item for item in old.get("conditions") or ()}
    told = []
    for item in new.get("conditions") or ():
        kind, status = item["type"], item["status"]
        known = before.get(kind) or {}
        if (known.get("status"), known.get("reason")) == (status, item.get("reason")):
            continue
        bad = (Condition.STALLED, Condition.DEGRADED, Condition.SCALING_LIMITED)
        if kind in bad and status == "True":
            told.append((item["reason"], item.get("message", ""), True))
        elif kind == Condition.READY and status == "True":
            told.append((item["reason"], item.get("message", "") or "Ready", False))
    return told


def _cluster_problem(error: ApiError) -> Problem:
    what = "the API server cannot be reached" if not error.status else str(error)
    return Problem(Reason.CLUSTER_ERROR, f"{what[:400]}; it is tried again")
