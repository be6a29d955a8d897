"""kopf's handlers: each only puts keys into the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from llamadeploy_operator import names
from llamadeploy_operator.cluster.kinds import DEPLOYMENT, WORKFLOW_SERVICE, Kind
from llamadeploy_operator.watch_limits import REQUEST_SECONDS

Changed = Callable[[Kind, dict[str, Any]], None]


def register(registry: kopf.OperatorRegistry, kinds: list[Kind], changed: Changed) -> None:
    """One event handler for each kind."""
    for kind in kinds:
        kopf.on.event(
            kind.group, kind.version, kind.plural, id=f"changed-{kind.plural}", registry=registry
        )(_handler(kind, changed))


def _handler(kind: Kind, changed: Changed) -> Callable[..., Any]:
    async def handle(body: kopf.Body, **_: Any) -> None:
        changed(kind, dict(body))

    return handle


def configure(
    settings: kopf.OperatorSettings, kinds: list[Kind], watch_seconds: int = REQUEST_SECONDS
) -> None:
    """Every time-out said, everything off that would write.

    Args:
        watch_seconds: for which each watch is asked.
    """
    settings.posting.enabled = False
    settings.peering.standalone = True
    # No watch of CRDs and namespaces, and no right to: a missing CRD makes /healthz fail.
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = 25.0
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 5.0
    settings.networking.error_backoffs = (0.5, 1, 2, 4)
    settings.networking.enforce_retry_after = True
    settings.watching.server_timeout = watch_seconds
    settings.watching.client_timeout = watch_seconds + 30.0
    settings.watching.connect_timeout = 5.0
    settings.watching.reconnect_backoff = 0.5
    # Ours is shorter, and safe against being cancelled while kopf is busy with an event.
    settings.watching.inactivity_timeout = 3600.0
    settings.watching.chunk_size = 250
    settings.queueing.idle_timeout = 0.2
    settings.queueing.exit_timeout = 1.0
    settings.queueing.worker_limit = 100
    for kind in kinds:
        if kind not in (DEPLOYMENT, WORKFLOW_SERVICE):
            selector = f"{names.MANAGED_BY_LABEL}={names.MANAGER}"
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = selector
