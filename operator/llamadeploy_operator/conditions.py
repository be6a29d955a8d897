"""Conditions as data: made, ordered, and given the time of their last transition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llamadeploy.logs import redact
from llamadeploy_operator.reasons import Condition, Reason

MAX_MESSAGE = 1_000
"""Characters; Kubernetes allows 32,768, and a person reads fewer."""


@dataclass(frozen=True, slots=True)
class State:
    """A condition's status, reason and message."""

    status: bool
    reason: Reason
    message: str = ""


def conditions(
    states: Mapping[Condition, State],
    previous: Iterable[Mapping[str, Any]],
    generation: int,
    now: str,
) -> list[dict[str, Any]]:
    """The list for ``status.conditions``, in the order of :class:`Condition`.

    Args:
        previous: the list as it is; where a condition's status stays, so does its time.
        now: RFC 3339, for the others.
    """
    before = {item.get("type"): item for item in previous}
    found = []
    for kind in Condition:
        state, old = states[kind], before.get(kind) or {}
        status = "True" if state.status else "False"
        same = old.get("status") == status and old.get("lastTransitionTime")
        found.append(
            {
                "type": str(kind),
                "status": status,
                "reason": str(state.reason),
                "message": clean(state.message),
                "lastTransitionTime": old["lastTransitionTime"] if same else now,
                "observedGeneration": generation,
            }
        )
    return found


def clean(text: str, limit: int = MAX_MESSAGE) -> str:
    """``text`` without logins, not too long; what is left out is its middle, because a log's cause
    stands last and a sentence's subject first."""
    text = redact(text)
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
