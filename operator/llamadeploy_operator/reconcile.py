"""One custom resource, once: parse -> desired -> apply -> prune -> observe -> status.

Level-based: it looks at what there is and what should be, never at what happened. Creation, change,
restart, drift and resync all take this way; deletion is the garbage collector's.
"""

from __future__ import annotations

import datetime
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from llamadeploy.logs import log_context
from llamadeploy_operator import metrics
from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.apply import Applier, ChangeSet, key_of, prune
from llamadeploy_operator.cluster.autoscaler import Autoscaler
from llamadeploy_operator.cluster.cache import Cache, ObjectKey, controller
from llamadeploy_operator.cluster.drains import Drains
from llamadeploy_operator.cluster.events import Recorder
from llamadeploy_operator.cluster.kinds import BY_KIND, DEPLOYMENT, WORKFLOW_SERVICE
from llamadeploy_operator.cluster.observe import observe
from llamadeploy_operator.cluster.scale_in import ScaleIn
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
from llamadeploy_operator.reasons import Reason
from llamadeploy_operator.routing import Key, Routes
from llamadeploy_operator.status import deployment_status, service_status
from llamadeploy_operator.status_news import MINOR_SECONDS, minor, news

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
        autoscaler: Autoscaler,
        scale_in: ScaleIn,
        resync_seconds: float,
    ) -> None:
        self._api = api
        self._cache = cache
        self._routes = routes
        self._gatherer = gatherer
        self._events = events
        self._drains = drains
        self._autoscaler = autoscaler
        self._scale_in = scale_in
        self._resync = resync_seconds
        self._applier = Applier(api, cache)
        self._secrets = InternalSecrets(api, cache)
        # Since when a status differs in what can wait.
        self._minor_since: dict[Key, float] = {}

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
            self._minor_since.pop(key, None)
            if kind == WORKFLOW_SERVICE:
                self._autoscaler.forget(key.namespace, key.name)
            return None
        gathered, changes, context = Gathered(), ChangeSet(), None
        try:
            context = await self._context(live, gathered)
            await self._carry_out(live, context, changes)
        except SpecError as error:
            changes.problems.append(error.problem)
        except ApiError as error:
            # Said once, so that people see why nothing moves; the queue tries again.
            await self._report(key, live, context, [_cluster_problem(error)])
            raise
        finally:
            self._routes.consumes(key, gathered.reads)
        if changes.changed:
            logger.info("applied %d, deleted %d", len(changes.applied), len(changes.deleted))
        later = await self._report(key, live, context, gathered.problems + changes.problems)
        if later is not None:
            return later
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
            self._autoscaler.follow(context)
            await self._scale_in.prepare(context)
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
        key: Key,
        live: Json,
        context: DeploymentContext | ServiceContext | None,
        problems: list[Problem],
    ) -> float | None:
        """Write the status, and tell in an Event what has newly become wrong or right; gives the
        seconds after which it is to be looked at again where that can wait."""
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
        former = live.get("status") or {}
        if former != status and minor(former, status):
            since = self._minor_since.setdefault(key, time.monotonic())
            if (left := since + MINOR_SECONDS - time.monotonic()) > 0:
                return left
        self._minor_since.pop(key, None)
        found = ObjectKey(kind, metadata["namespace"], metadata["name"])
        if await write_status(self._api, self._cache, found, live, status):
            self._routes.wrote(key, self._cache.version(*found) or "")
            told = news(former, status)
            if not former and isinstance(context, DeploymentContext):
                told += [(str(reason), text, True) for reason, text in notices(context)]
            await self._tell(live, told)
        return None

    async def _tell(self, live: Json, told: list[tuple[str, str, bool]]) -> None:
        for reason, message, warning in told:
            # That a service of a Deployment's is ready, the Deployment's own Event says.
            if warning or controller(live["metadata"]) is None:
                await self._events.record(
                    live, reason, message, kind="Warning" if warning else "Normal"
                )


def _cluster_problem(error: ApiError) -> Problem:
    what = "the API server cannot be reached" if not error.status else str(error)
    return Problem(Reason.CLUSTER_ERROR, f"{what[:400]}; it is tried again")
