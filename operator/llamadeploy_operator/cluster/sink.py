"""Where every watch delivers: the cache, the watchdog, and whoever wants to know what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.kinds import DEPLOYMENT, WORKFLOW_SERVICE, Kind
from llamadeploy_operator.health import Watch, Watchdog

Json = dict[str, Any]


class Sink:
    """Takes what one watch or another has seen.

    ``changed(kind, body)`` is called for what lists bring: new states, and that an object is gone.
    Of events the one who feeds the sink tells.
    """

    def __init__(
        self, cache: Cache, watchdog: Watchdog, changed: Callable[[Kind, Json], None]
    ) -> None:
        self.cache = cache
        self.watchdog = watchdog
        self._changed = changed

    def seen(self, kind: Kind, body: Mapping[str, Any]) -> tuple[ObjectKey, bool]:
        """An object as a list or an event has it; gives whether that is news.

        What we wrote ourselves is known from the answer. Of custom resources it is news all the
        same: it concerns another one too.
        """
        metadata = body["metadata"]
        before = self.cache.version(kind, metadata["namespace"], metadata["name"])
        key = self.cache.put(kind, body)
        custom = kind in (DEPLOYMENT, WORKFLOW_SERVICE)
        return key, custom or self.cache.version(*key) != before

    def found(self, kind: Kind, body: Json) -> ObjectKey:
        """An object in a list; who is concerned is told of it where it is news."""
        key, news = self.seen(kind, body)
        if news:
            self._changed(kind, body)
        return key

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
    kept = (
        "name", "namespace", "uid", "resourceVersion", "generation", "labels", "ownerReferences"
    )  # fmt: skip
    return {
        "apiVersion": body.get("apiVersion"),
        "kind": body.get("kind"),
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"deploymentRef": (body.get("spec") or {}).get("deploymentRef")},
        "status": {"runtime": (body.get("status") or {}).get("runtime")},
    }
