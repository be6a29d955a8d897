"""What of a new status is worth telling, and worth writing at once: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamadeploy_operator.reasons import Condition

Json = Mapping[str, Any]

MINOR_SECONDS = 1.0
"""For which a change that decides nothing waits for the next one."""

_BAD = (Condition.STALLED, Condition.DEGRADED, Condition.SCALING_LIMITED)
_TELLING = (*_BAD, Condition.READY, Condition.PAUSED)


def news(old: Json, new: Json) -> list[tuple[str, str, bool]]:
    """What a person would want to know of a new status: ``(reason, message, is a warning)``."""
    before, told = _by_type(old), []
    for kind, item in _by_type(new).items():
        known = before.get(kind) or {}
        if (known.get("status"), known.get("reason")) == (item["status"], item.get("reason")):
            continue
        if kind in _BAD and item["status"] == "True":
            told.append((item["reason"], item.get("message", ""), True))
        elif kind == Condition.READY and item["status"] == "True":
            told.append((item["reason"], item.get("message", "") or "Ready", False))
    return told


def minor(old: Json, new: Json) -> bool:
    """Whether a status that is another one may be written a little later: it brings numbers and
    words about what is on its way, as there are many while pods start.

    The first status of a WorkflowService is no more than that while all goes well; that of a
    Deployment is more: it records what runs.
    """
    if not old:
        return "runtime" not in new and not any(_is(new, kind) for kind in _TELLING)
    if old.get("observedGeneration") != new.get("observedGeneration") or news(old, new):
        return False
    return all(_is(old, kind) == _is(new, kind) for kind in _TELLING) and (
        old.get("runtime") == new.get("runtime")
    )


def _by_type(status: Json) -> dict[str, Json]:
    return {item["type"]: item for item in status.get("conditions") or ()}


def _is(status: Json, kind: Condition) -> bool:
    return (_by_type(status).get(kind) or {}).get("status") == "True"
