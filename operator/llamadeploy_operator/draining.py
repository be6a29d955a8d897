"""When a WorkflowService whose inline service was removed may go: pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamadeploy_operator import names

DRAIN_SECONDS = 3600.0
"""What the tasks of a removed service get to end by themselves, unless ``--drain-seconds``."""

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Depth:
    """A service's unfinished tasks, as the control plane's ``/scaling`` counts them.

    Attributes:
        parked: they wait for people, or behind another task of their session.
    """

    ready: int = 0
    unacked: int = 0
    custody: int = 0
    parked: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is left; a person's answer is waited for too, as long as there is
        time."""
        return not (self.ready or self.unacked or self.custody or self.parked)


def removed_at(body: Mapping[str, Any]) -> float | None:
    """Since when a WorkflowService drains, in seconds since 1970; ``None``: it does not.

    What cannot be read counts as long ago.
    """
    text = (body["metadata"].get("annotations") or {}).get(names.REMOVED_ANNOTATION)
    if text is None:
        return None
    try:
        found = datetime.datetime.strptime(text, _FORMAT)
    except ValueError:
        return 0.0
    return found.replace(tzinfo=datetime.UTC).timestamp()


def stamp(now: float) -> str:
    """The annotation's text for a moment."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).strftime(_FORMAT)


def may_end(depth: Depth | None, since: float, now: float, limit: float) -> bool:
    """Whether the service may be ended now.

    Args:
        depth: ``None``: the control plane cannot be reached. Then it stays, whatever the time:
            its tasks were accepted, and nobody could be told that they ended.
        limit: seconds.
    """
    return depth is not None and (depth.empty or now - since >= limit)
