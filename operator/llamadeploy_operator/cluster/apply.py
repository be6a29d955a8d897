"""Make one child as its manifest says, or find that there is nothing to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.cluster.api import JSON, METADATA, Api, ApiError
from llamadeploy_operator.cluster.cache import Cache, ObjectKey, controller, controller_uid
from llamadeploy_operator.cluster.claims import foreign_claim
from llamadeploy_operator.cluster.kinds import (
    APP,
    JOB,
    KEDA,
    METADATA_ONLY,
    STATEFUL_SET,
    WORKFLOW_SERVICE,
    Kind,
    kind_of,
)
from llamadeploy_operator.cluster.observe import conditions
from llamadeploy_operator.cluster.ownership import (
    APPLIED_ANNOTATION,
    is_steady,
    missing,
    owns,
    stamped,
)
from llamadeploy_operator.errors import Problem
from llamadeploy_operator.reasons import Reason

logger = logging.getLogger(__name__)

Json = dict[str, Any]

#: A resourceVersion that no object has, for etcd's first write has another: an apply with it
#: creates, or is refused (409) where there is an object. That saves a look at each new child.
NO_OBJECT = "1"


@dataclass
class ChangeSet:
    """What a reconciliation did to the children.

    Attributes:
        applied: created or changed.
        unchanged: found as they should be; nothing was sent.
        deleted: no longer wanted.
        draining: no longer wanted, and kept until their tasks have ended.
        waiting: being deleted by somebody; to be made again when they are gone.
        problems: what could not be done, and the cure.
    """

    applied: list[ObjectKey] = field(default_factory=list)
    unchanged: list[ObjectKey] = field(default_factory=list)
    deleted: list[ObjectKey] = field(default_factory=list)
    draining: set[ObjectKey] = field(default_factory=set)
    waiting: list[ObjectKey] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.applied or self.deleted)


class Applier:
    """Applies the children of custom resources. One for the process."""

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api = api
        self._cache = cache

    async def apply(self, manifest: Json, changes: ChangeSet) -> None:
        """Apply one child; everything that is wrong with it becomes a problem in ``changes``.

        Raises:
            ApiError: the API server fails in a way that may pass; try again.
        """
        kind = kind_of(manifest)
        key = ObjectKey(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        stamp = stamped(manifest)
        wanted = _applied(stamp)
        if self._cache.steady(key) == wanted:
            changes.unchanged.append(key)
            return
        live = self._cache.get(*key)
        if live is None:
            if kind == STATEFUL_SET:
                problem = await foreign_claim(self._api, self._cache, manifest)
                if problem is not None:
                    changes.problems.append(problem)
                    return
            if await self._create(key, stamp, changes):
                return
            # There is one that the watches do not show: it is new, or without our labels.
            live = await self._look(key)
        if live is not None:
            if not may_have(live, manifest):
                changes.problems.append(name_conflict(key, live))
                return
            if live["metadata"].get("deletionTimestamp"):
                changes.waiting.append(key)
                return
            if self._steady(key, live, stamp):
                if self._cache.version(*key) == live["metadata"]["resourceVersion"]:
                    self._cache.note_steady(key, wanted)
                changes.unchanged.append(key)
                return
            if kind == JOB:
                await self._renew(key, live, stamp, changes)
                return
            # That very object: one that was deleted and made anew meanwhile gives a conflict.
            stamp["metadata"]["uid"] = live["metadata"]["uid"]
        if kind in (WORKFLOW_SERVICE, APP) and live is not None:
            await self._hand_over_replicas(key, live, manifest)
        await self._send(key, stamp, changes)

    async def _create(self, key: ObjectKey, stamp: Json, changes: ChangeSet) -> bool:
        """Apply what is not there, as far as is known; ``False``: there is an object of that name,
        and it is as it was."""
        metadata = {**stamp["metadata"], "resourceVersion": NO_OBJECT}
        try:
            await self._send(key, {**stamp, "metadata": metadata}, changes)
        except ApiError as error:
            # All of these are watched, not ours alone: this one is about to be seen.
            if error.conflict and key.kind not in (WORKFLOW_SERVICE, *KEDA):
                return False
            raise
        return True

    async def _renew(self, key: ObjectKey, live: Json, stamp: Json, changes: ChangeSet) -> None:
        """A Job's template is immutable. One that was made from another manifest (a proxy was set,
        say) and has not succeeded goes, and is made anew once it is gone."""
        annotations = live["metadata"].get("annotations") or {}
        same = annotations.get(APPLIED_ANNOTATION) == _applied(stamp)
        succeeded = conditions(live.get("status") or {}).get("Complete", ("",))[0] == "True"
        if same or succeeded:
            changes.unchanged.append(key)
            return
        await self._api.delete(key.kind, key.namespace, key.name, uid=live["metadata"]["uid"])
        changes.waiting.append(key)

    async def _send(self, key: ObjectKey, stamp: Json, changes: ChangeSet) -> None:
        try:
            result = await self._api.apply(key.kind, key.namespace, stamp, manager=names.MANAGER)
        except ApiError as error:
            if not error.permanent:
                raise
            changes.problems.append(_refused(key, error))
            return
        changes.applied.append(key)
        self._cache.put(key.kind, result)
        lost = missing(result, stamp, names.MANAGER)
        if lost is None:
            self._cache.note_steady(key, _applied(stamp))
        else:
            logger.debug("%s %s: %s is not kept as applied", key.kind.kind, key.name, lost)
            self._cache.note_lost(key, _applied(stamp), lost)

    def _steady(self, key: ObjectKey, live: Json, stamp: Json) -> bool:
        if is_steady(live, stamp, names.MANAGER):
            return True
        wanted = _applied(stamp)
        lost = self._cache.lost(key, wanted)
        return (
            lost is not None
            and (live["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION) == wanted
            and missing(live, stamp, names.MANAGER) == lost
        )

    async def _look(self, key: ObjectKey) -> Json | None:
        """An object that the watches do not show: it may be there without our labels."""
        path = key.kind.path(key.namespace, key.name)
        accept = METADATA if key.kind in METADATA_ONLY else JSON
        try:
            return await self._api.request("GET", path, accept=accept)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _hand_over_replicas(self, key: ObjectKey, live: Json, manifest: Json) -> None:
        """Before we let go of ``spec.replicas`` (named -> omitted) somebody else must hold it, or
        the API server would put the default, 1, in its place."""
        if "replicas" in manifest["spec"] or not owns(live, names.MANAGER, "spec", "replicas"):
            return
        body = {
            "apiVersion": key.kind.api_version,
            "kind": key.kind.kind,
            "metadata": {"name": key.name, "uid": live["metadata"]["uid"]},
            "spec": {"replicas": live["spec"]["replicas"]},
        }
        await self._api.apply(key.kind, key.namespace, body, manager=names.HANDOVER_MANAGER)


def _applied(stamp: Json) -> str:
    """The hash of a stamped manifest."""
    found: str = stamp["metadata"]["annotations"][APPLIED_ANNOTATION]
    return found


def may_have(live: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether an object of a child's name is that child: our owner's, or left behind by an owner
    of the same name (``deletionPolicy: Retain``) and marked as ours."""
    metadata = live["metadata"]
    wanted = controller_uid(manifest["metadata"])
    if wanted and controller_uid(metadata) == wanted:
        return True
    if any(reference.get("controller") for reference in metadata.get("ownerReferences") or ()):
        return False
    labels = metadata.get("labels") or {}
    mine = manifest["metadata"]["labels"]
    return all(
        labels.get(name) == mine.get(name)
        for name in (names.MANAGED_BY_LABEL, names.DEPLOYMENT_LABEL, names.COMPONENT_LABEL)
    )


def name_conflict(key: ObjectKey, live: Mapping[str, Any]) -> Problem:
    """The problem: an object that is not ours has the name of a child."""
    reference = controller(live["metadata"])
    whose = f"belongs to {reference['kind']} {reference['name']}" if reference else "is not ours"
    return Problem(
        Reason.NAME_CONFLICT,
        f"{key.kind.kind} {key.name} exists already and {whose}; rename or delete it, or give "
        "this resource another name",
        stalled=True,
    )


def _refused(key: ObjectKey, error: ApiError) -> Problem:
    reason = Reason.APPLY_REFUSED
    cure = "change the field of the spec that it comes from"
    if key.kind in (APP, STATEFUL_SET) and (error.mistyped or "spec.template" in error.message):
        reason, cure = Reason.INVALID_POD_TEMPLATE, "correct the podTemplate"
    return Problem(
        reason,
        f"the API server refuses {key.kind.kind} {key.name}: {error.message[:600]}; {cure}",
        stalled=True,
    )


async def prune(api: Api, cache: Cache, owner_uid: str, keep: set[ObjectKey]) -> list[ObjectKey]:
    """Delete the children of an owner that are not to be kept; gives those it deleted.

    Only objects that this owner controls and that carry our label, and never a StatefulSet: what
    holds data goes with its owner alone. Raises: ApiError.
    """
    deleted = []
    for key in cache.owned_by(owner_uid):
        if key in keep or key.kind == STATEFUL_SET:
            continue
        live = cache.get(*key)
        if live is None or live["metadata"].get("deletionTimestamp"):
            continue
        if (live["metadata"].get("labels") or {}).get(names.MANAGED_BY_LABEL) != names.MANAGER:
            continue
        await api.delete(key.kind, key.namespace, key.name, uid=live["metadata"]["uid"])
        deleted.append(key)
    return deleted


def key_of(manifest: Mapping[str, Any]) -> ObjectKey:
    """The key of a manifest."""
    metadata = manifest["metadata"]
    return ObjectKey(kind_of(manifest), metadata["namespace"], metadata["name"])


__all__ = ["Applier", "ChangeSet", "Kind", "key_of", "may_have", "name_conflict", "prune"]
