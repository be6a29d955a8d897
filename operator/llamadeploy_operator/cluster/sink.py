"""Where every watch delivers: the cache, the watchdog, and whoever wants to know what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.kinds import Kind
from llamadeploy_operator.health import Watch, Watchdog

Json = dict[str, Any]


class Sink:
    """Takes what one watch or another has seen.

    ``changed(kind, body)`` is called for an object that vanished between two lists: no event tells
    of it. For events proper the one who feeds the sink tells.
    """

    def __init__(
        self, cache: Cache, watchdog: Watchdog, changed: Callable[[Kind, Json], None]
    ) -> None:
        self.cache = cache
        self.watchdog = watchdog
        self._changed = changed

    def seen(self, kind: Kind, body: Mapping[str, Any]) -> ObjectKey:
        """An object as a list or an event has it."""
        return self.cache.put(kind, body)

    def gone(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """An object that a ``DELETED`` event tells of."""
        metadata = body["metadata"]
        self.cache.drop(
            ObjectKey(kind, metadata["namespace"], metadata["name"]), uid=metadata["uid"]
        )

    def listed(self, kind: Kind, namespace: str | None, found: set[ObjectKey]) -> None:
        """A list is complete: what the cache has beyond it is gone."""
        for key in self.cache.keys(kind, namespace):
            if key not in found:
                body = self.cache.get(*key)
                self.cache.drop(key)
                if body is not None:
                    self._changed(kind, body)
        self.watchdog.listed(Watch(kind.resource, namespace or ""))

    def silent(self, kind: Kind, namespace: str | None) -> None:
        """A watch was given up because nothing came on it."""
        self.watchdog.silent(Watch(kind.resource, namespace or ""))

    def alive(self, kind: Kind, namespace: str | None) -> None:
        """A sign of life of a watch."""
        self.watchdog.beat(Watch(kind.resource, namespace or ""))


def slim(body: Mapping[str, Any]) -> Json:
    """What is needed to find out whom an object concerns, and no more."""
    metadata = body["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences")
    return {
        "apiVersion": body.get("apiVersion"),
        "kind": body.get("kind"),
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"deploymentRef": (body.get("spec") or {}).get("deploymentRef")},
    }
