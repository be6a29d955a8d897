"""What the API server's audit log says: who did what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was answered.

    Attributes:
        resource: plural, with its subresource: ``workflowservices/status``; of no resource: ``""``.
        agent: the client's User-Agent.
        time: when it was answered (a watch: began to be), in seconds since 1970.
    """

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    status: int
    agent: str
    time: float


class AuditLog:
    """Reads the log from where it was last :meth:`mark`-ed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def mark(self) -> None:
        """Forget what was until now."""
        self._start = self.path.stat().st_size if self.path.exists() else 0

    def requests(
        self, *, user: str | None = None, namespace: str | None = None, writes: bool = False
    ) -> Iterator[Request]:
        """Requests since the mark, oldest first. A watch is there from its beginning, once.

        Args:
            user: only this user's.
            namespace: only of this namespace.
            writes: only those that may change something.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._start)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written
                item = json.loads(line)
                if (item["verb"] == "watch") != (item["stage"] == "ResponseStarted"):
                    continue
                request = _request(item)
                if user not in (None, request.user) or namespace not in (None, request.namespace):
                    continue
                if not writes or request.verb in WRITES:
                    yield request

    def writes(self, **only: str) -> Counter[tuple[str, str]]:
        """(verb, resource) -> number of requests that may have changed something."""
        found = self.requests(writes=True, **only)  # type: ignore[arg-type]
        return Counter((request.verb, request.resource) for request in found)


def _request(item: dict[str, object]) -> Request:
    reference = item.get("objectRef") or {}
    status = item.get("responseStatus") or {}
    user = item["user"]
    assert isinstance(reference, dict) and isinstance(status, dict) and isinstance(user, dict)
    names = (reference.get("resource", ""), reference.get("subresource", ""))
    return Request(
        user=str(user["username"]),
        verb=str(item["verb"]),
        group=str(reference.get("apiGroup", "")),
        resource="/".join(name for name in names if name),
        namespace=str(reference.get("namespace", "")),
        name=str(reference.get("name", "")),
        status=int(status.get("code", 0)),
        agent=str(item.get("userAgent", "")),
        time=datetime.fromisoformat(str(item["stageTimestamp"])).timestamp(),
    )
