"""A row of ``tasks`` as the other modules see it."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import TaskState

ROUTING = "routing"
"""Between two services of a custom orchestrator; shown as ``running``."""

TERMINAL = frozenset(state.value for state in TaskState if state.terminal)


class TaskRow(NamedTuple):
    """Everything of a task but its texts; see the comments in ``schema``."""

    id: int
    task_id: str
    session_id: str
    service: str
    state: str
    timer: float | None
    place: int | None
    attempt: int
    dispatch: int
    crashes: int
    errors: int
    execution_id: str | None
    worker_id: str | None
    max_retries: int
    retry_on_error: int
    wait_timeout: float | None
    orchestrated: int
    stage: int
    detached: int
    parent: str | None
    ancestors: str
    base_index: int
    bases: str
    inbound_seq: int
    consumed_seq: int
    parked_attempt: int
    parked_at: float | None
    parked_code_version: str
    wait_expired: int
    run_seconds: float
    created_at: float
    started_at: float | None
    followers: int

    @property
    def terminal(self) -> bool:
        """Whether the task has its one result."""
        return self.state in TERMINAL

    @property
    def shown_state(self) -> TaskState:
        """The state as clients know it."""
        return TaskState.RUNNING if self.state == ROUTING else TaskState(self.state)

    @property
    def dispatched(self) -> bool:
        """Whether it is queued and its turn."""
        return self.state == "queued" and self.timer is not None

    def current(self, attempt: int) -> bool:
        """Whether ``attempt`` is the one that runs now."""
        return self.state == "running" and self.attempt == attempt


COLUMNS = ", ".join(f"t.{name}" for name in TaskRow._fields)

_BY_TASK_ID = f"SELECT {COLUMNS} FROM tasks t WHERE namespace = ? AND task_id = ?"  # noqa: S608


def find_task(tx: Tx, task_id: str) -> TaskRow | None:
    """The task, or ``None`` where it is unknown."""
    row = tx.conn.execute(_BY_TASK_ID, (tx.namespace, task_id)).fetchone()
    return None if row is None else TaskRow._make(row)


def select_tasks(tx: Tx, condition: str, *parameters: object) -> list[TaskRow]:
    """The namespace's tasks that satisfy ``condition`` (SQL of this package over alias ``t``)."""
    rows = tx.conn.execute(
        f"SELECT {COLUMNS} FROM tasks t WHERE namespace = ? AND {condition}",  # noqa: S608
        (tx.namespace, *parameters),
    )
    return [TaskRow._make(row) for row in rows]


def to_json(value: Any) -> str:
    """JSON text of plain data."""
    return msgspec.json.encode(value).decode()


def from_json(text: str | None) -> Any:
    """The plain data of a JSON column; an empty object for ``NULL``."""
    return {} if text is None else msgspec.json.decode(text)
