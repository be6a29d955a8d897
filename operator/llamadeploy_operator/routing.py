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


class Routes:
    """Finds the custom resources that an object's change concerns."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
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

    def of(self, kind: Kind, body: Mapping[str, Any]) -> Iterator[Key]:
        """The keys that are due after a change of this object."""
        metadata = body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if kind == DEPLOYMENT:
            yield Key("Deployment", namespace, name)
            yield from self._services_of(namespace, name)
            return
        if kind == WORKFLOW_SERVICE:
            yield Key("WorkflowService", namespace, name)
            parent = ((body.get("spec") or {}).get("deploymentRef") or {}).get("name")
            if parent:
                yield Key("Deployment", namespace, parent)
                # Its service's name may be another's now, or free again.
                yield from self._services_of(namespace, parent)
        if kind == POD:
            yield from self._of_pod(namespace, metadata.get("labels") or {})
        if kind in METADATA_ONLY:
            yield from self._consumers.get(ObjectKey(kind, namespace, name), ())
        reference = controller(metadata)
        if reference is not None:
            yield Key(reference["kind"], namespace, reference["name"])

    def _services_of(self, namespace: str, deployment: str) -> Iterator[Key]:
        for key in self._cache.services_of(namespace, deployment):
            yield Key("WorkflowService", namespace, key.name)

    def _of_pod(self, namespace: str, labels: Mapping[str, str]) -> Iterator[Key]:
        if owner := labels.get(names.WORKFLOW_SERVICE_LABEL):
            name = self._unshortened(WORKFLOW_SERVICE, namespace, owner)
            yield Key("WorkflowService", namespace, name)
        elif owner := labels.get(names.DEPLOYMENT_LABEL):
            yield Key("Deployment", namespace, self._unshortened(DEPLOYMENT, namespace, owner))

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
