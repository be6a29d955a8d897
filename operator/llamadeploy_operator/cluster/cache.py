"""What the watches have told of the cluster, small enough for tens of thousands of objects."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from llamadeploy.spec.manifest import API_VERSION
from llamadeploy_operator import names
from llamadeploy_operator.cluster.kept import kept
from llamadeploy_operator.cluster.kinds import WORKFLOW_SERVICE, Kind

Json = dict[str, Any]


class ObjectKey(NamedTuple):
    """An object of the cluster."""

    kind: Kind
    namespace: str
    name: str


class _Entry(NamedTuple):
    uid: str
    version: str
    owner_uid: str
    labels: tuple[str, str]
    packed: bytes


class Cache:
    """The last state of each watched object, compressed (about 1 KB for a workload).

    Results of our own writes come in too; a watch event that is older than they are is ignored.
    """

    def __init__(self) -> None:
        self._entries: dict[ObjectKey, _Entry] = {}
        self._by_owner: defaultdict[str, set[ObjectKey]] = defaultdict(set)
        self._by_label: defaultdict[tuple[Kind, str, str], set[ObjectKey]] = defaultdict(set)
        self._by_namespace: defaultdict[tuple[Kind, str], set[ObjectKey]] = defaultdict(set)
        self._steady: dict[ObjectKey, str] = {}
        self._lost: dict[ObjectKey, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, kind: Kind, body: Mapping[str, Any]) -> ObjectKey:
        """Remember an object, unless a newer state of it is known."""
        metadata = body["metadata"]
        key = ObjectKey(kind, metadata["namespace"], metadata["name"])
        known = self._entries.get(key)
        version = metadata["resourceVersion"]
        if known is not None:
            if known.uid == metadata["uid"] and not _newer(version, known.version):
                return key
            self._unlink(key, known)
        packed = zlib.compress(msgspec.json.encode(kept(kind, body)), 1)
        indexed = _indexed(kind, body)
        entry = _Entry(metadata["uid"], version, controller_uid(metadata), indexed, packed)
        self._entries[key] = entry
        for value in set(indexed) - {""}:
            self._by_label[kind, key.namespace, value].add(key)
        self._by_namespace[kind, key.namespace].add(key)
        if entry.owner_uid:
            self._by_owner[entry.owner_uid].add(key)
        return key

    def drop(self, key: ObjectKey, uid: str | None = None) -> None:
        """Forget an object that is gone; with ``uid`` only that incarnation of it."""
        known = self._entries.get(key)
        if known is not None and uid in (None, known.uid):
            self._unlink(key, known)
            self._lost.pop(key, None)
            del self._entries[key]

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """A fresh copy of an object, or ``None`` where there is none."""
        entry = self._entries.get(ObjectKey(kind, namespace, name))
        return _unpack(entry) if entry else None

    def version(self, kind: Kind, namespace: str, name: str) -> str | None:
        """The resourceVersion of an object, or ``None`` where there is none."""
        entry = self._entries.get(ObjectKey(kind, namespace, name))
        return entry.version if entry else None

    def steady(self, key: ObjectKey) -> str | None:
        """What was given to :meth:`note_steady` for the very state that is known now."""
        return self._steady.get(key)

    def note_steady(self, key: ObjectKey, digest: str) -> None:
        """Remember, until the object's state changes, that it is as the manifest with this hash
        wants it: most looks at a child find what the look before found."""
        if key in self._entries:
            self._steady[key] = digest

    def lost(self, key: ObjectKey, digest: str) -> str | None:
        """What was given to :meth:`note_lost` for an object and the manifest with this hash."""
        known, path = self._lost.get(key, ("", ""))
        return path if known == digest else None

    def note_lost(self, key: ObjectKey, digest: str, path: str) -> None:
        """Remember, as long as the object lives, that the API server does not book a field as ours
        even right after an apply (it drops some that equal their zero value), so that it is not
        applied again and again."""
        if key in self._entries:
            self._lost[key] = (digest, path)

    def keys(self, kind: Kind, namespace: str | None = None) -> list[ObjectKey]:
        """All objects of a kind, in one namespace or in all."""
        if namespace is not None:
            return list(self._by_namespace.get((kind, namespace), ()))
        return [key for key in self._entries if key.kind == kind]

    def owned_by(self, uid: str) -> Collection[ObjectKey]:
        """The objects whose controller has this uid."""
        return list(self._by_owner.get(uid, ()))

    def uid(self, key: ObjectKey) -> str | None:
        """The uid of an object, or ``None`` where there is none."""
        entry = self._entries.get(key)
        return entry.uid if entry else None

    def labelled(self, kind: Kind, namespace: str, label: str, value: str) -> list[ObjectKey]:
        """Objects with ``names.DEPLOYMENT_LABEL`` or ``names.WORKFLOW_SERVICE_LABEL``."""
        which = (names.DEPLOYMENT_LABEL, names.WORKFLOW_SERVICE_LABEL).index(label)
        found = self._by_label.get((kind, namespace, value), ())
        return sorted(key for key in found if self._entries[key].labels[which] == value)

    def services_of(self, namespace: str, deployment: str) -> list[ObjectKey]:
        """The WorkflowServices that name a Deployment, inline or not, labelled or not."""
        return sorted(self._by_label.get((WORKFLOW_SERVICE, namespace, deployment), ()))

    def _unlink(self, key: ObjectKey, entry: _Entry) -> None:
        self._steady.pop(key, None)
        _discard(self._by_owner, entry.owner_uid, key)
        _discard(self._by_namespace, (key.kind, key.namespace), key)
        for value in set(entry.labels) - {""}:
            _discard(self._by_label, (key.kind, key.namespace, value), key)


def _indexed(kind: Kind, body: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the Deployment and the WorkflowService that an object is looked up by."""
    if kind == WORKFLOW_SERVICE:
        return body["spec"]["deploymentRef"]["name"], ""
    labels = body["metadata"].get("labels") or {}
    return labels.get(names.DEPLOYMENT_LABEL, ""), labels.get(names.WORKFLOW_SERVICE_LABEL, "")


def _discard(index: dict[Any, set[ObjectKey]], value: Any, key: ObjectKey) -> None:
    members = index.get(value)
    if members is not None:
        members.discard(key)
        if not members:
            del index[value]


def controller(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The reference to the custom resource of ours that controls an object."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller") and reference["apiVersion"] == API_VERSION:
            found: Mapping[str, Any] = reference
            return found
    return None


def controller_uid(metadata: Mapping[str, Any]) -> str:
    """The uid in :func:`controller`, or an empty string."""
    found = controller(metadata)
    return found["uid"] if found else ""


def _unpack(entry: _Entry) -> Json:
    body: Json = msgspec.json.decode(zlib.decompress(entry.packed))
    return body


def _newer(version: str, known: str) -> bool:
    # Comparable as numbers since Kubernetes 1.35 says so, and in fact since etcd 3.
    try:
        return int(version) > int(known)
    except ValueError:
        return True
