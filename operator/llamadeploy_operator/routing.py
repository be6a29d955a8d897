"""Whom a change concerns: the keys to reconcile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llamadeploy_operator import names
from llamadeploy_operator.cluster.cache import Cache, ObjectKey, controller
from llamadeploy_operator.cluster.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    METADATA_ONLY,
    POD,
    SECRET,
    WORKFLOW_SERVICE,
    Kind,
)


class Key(NamedTuple):
    """A custom resource to reconcile: ``Deployment`` or ``WorkflowService``."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Due(NamedTuple):
    """A key that is due; ``urgent``: a person may wait for it, and nothing was done yet."""

    key: Key
    urgent: bool = False


class _Seen(NamedTuple):
    uid: str
    generation: int
    runtime: Any


class Routes:
    """Finds the custom resources that an object's change concerns."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        # Of custom resources: what matters to others, and the version that we wrote last.
        self._seen: dict[Key, _Seen] = {}
        self._wrote: dict[Key, str] = {}
        self._consumers: defaultdict[ObjectKey, set[Key]] = defaultdict(set)
        self._consumed: dict[Key, set[ObjectKey]] = {}

    def consumes(self, key: Key, objects: set[ObjectKey]) -> None:
        """Remember which Secrets and ConfigMaps a custom resource depends on (an empty set:
        none any more)."""
        for gone in self._consumed.pop(key, set()) - objects:
            self._consumers[gone].discard(key)
            if not self._consumers[gone]:
                del self._consumers[gone]
        if objects:
            self._consumed[key] = objects
        for item in objects:
            self._consumers[item].add(key)

    def wrote(self, key: Key, version: str) -> None:
        """Whoever reconciles ``key`` wrote its status: the event that tells of this version is no
        reason to look at it again."""
        self._wrote[key] = version

    def of(self, kind: Kind, body: Mapping[str, Any]) -> Iterator[Due]:
        """The keys that are due after a change of this object."""
        metadata = body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if kind in (DEPLOYMENT, WORKFLOW_SERVICE):
            yield from self._of_custom_resource(kind, body)
        if kind == POD:
            yield from self._of_pod(namespace, metadata.get("labels") or {})
        if kind in METADATA_ONLY:
            for key in self._consumers.get(ObjectKey(kind, namespace, name), ()):
                yield Due(key, urgent=True)
        reference = controller(metadata)
        if reference is not None:
            yield Due(Key(reference["kind"], namespace, reference["name"]))

    def _of_custom_resource(self, kind: Kind, body: Mapping[str, Any]) -> Iterator[Due]:
        metadata = body["metadata"]
        key = Key(kind.kind, metadata["namespace"], metadata["name"])
        runtime = (body.get("status") or {}).get("runtime")
        known = self._seen.get(key)
        self._seen[key] = seen = _Seen(metadata["uid"], metadata.get("generation", 0), runtime)
        changed = known is None or known[:2] != seen[:2]
        if self._cache.version(kind, *key[1:]) is None:
            changed = True
            self._seen.pop(key, None)
            self._wrote.pop(key, None)
        if changed or metadata["resourceVersion"] != self._wrote.get(key):
            yield Due(key, urgent=changed)
        if kind == DEPLOYMENT:
            # The first record of a runtime is what its services run already.
            moved = known is not None and known.runtime not in (None, runtime)
            if changed or moved:
                yield from self._services_of(key.namespace, key.name, urgent=changed)
            return
        parent = ((body.get("spec") or {}).get("deploymentRef") or {}).get("name")
        if parent:
            yield Due(Key("Deployment", key.namespace, parent))
            if changed:
                # Its service's name may be another's now, or free again.
                yield from self._services_of(key.namespace, parent)

    def _services_of(
        self, namespace: str, deployment: str, *, urgent: bool = False
    ) -> Iterator[Due]:
        for key in self._cache.services_of(namespace, deployment):
            yield Due(Key("WorkflowService", namespace, key.name), urgent)

    def _of_pod(self, namespace: str, labels: Mapping[str, str]) -> Iterator[Due]:
        if owner := labels.get(names.WORKFLOW_SERVICE_LABEL):
            name = self._unshortened(WORKFLOW_SERVICE, namespace, owner)
            yield Due(Key("WorkflowService", namespace, name))
        elif owner := labels.get(names.DEPLOYMENT_LABEL):
            name = self._unshortened(DEPLOYMENT, namespace, owner)
            yield Due(Key("Deployment", namespace, name))

    def _unshortened(self, kind: Kind, namespace: str, label: str) -> str:
        """The name behind a label, which holds only a hashed form of a long one."""
        if self._cache.version(kind, namespace, label) is not None:
            return label
        for key in self._cache.keys(kind, namespace):
            if names.label_value(key.name) == label:
                return key.name
        return label


def consumed_key(kind: str, namespace: str, name: str) -> ObjectKey:
    """The key of a ``Consumed``."""
    return ObjectKey(SECRET if kind == "Secret" else CONFIG_MAP, namespace, name)
