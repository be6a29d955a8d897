"""What every SQL function works on."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from llamadeploy.state_stores.observation import Observation
from llamadeploy.state_stores.records import TaskRecord


@dataclass(slots=True)
class Tx:
    """An open transaction.

    Attributes:
        namespace: the deployment; part of every query on a top-level table.
        now: seconds since the epoch, one value per transaction.
        touched: ids of the tasks that changed; their followers are woken after the commit.
        ended: those of them that ended; ``None`` for one that was forgotten.
        observed: what the observer is told after the commit.
    """

    conn: sqlite3.Connection
    namespace: str
    now: float
    touched: list[str] = field(default_factory=list)
    ended: list[tuple[str, TaskRecord | None]] = field(default_factory=list)
    observed: list[Observation] = field(default_factory=list)
