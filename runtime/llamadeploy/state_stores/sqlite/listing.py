"""Tasks as people and autoscalers look at them: by filter, and by service."""

from __future__ import annotations

from llamadeploy.state_stores.records import ServiceLoad, TaskQuery, TaskRecord
from llamadeploy.state_stores.sqlite.rows import ROUTING
from llamadeploy.state_stores.sqlite.tasks import RECORDS, record
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import TaskState


def find(tx: Tx, query: TaskQuery) -> list[TaskRecord]:
    """See ``StateStore.find_tasks``."""
    sql, values = RECORDS, [tx.namespace]
    for column, value in (("session_id", query.session_id), ("service", query.service)):
        if value is not None:
            sql += f" AND {column} = ?"
            values.append(value)
    if query.states:
        states = [state.value for state in query.states]
        states += [ROUTING] if TaskState.RUNNING in query.states else []
        sql += f" AND state IN ({', '.join('?' * len(states))})"
        values += states
    if query.before is not None:
        sql += " AND id < (SELECT id FROM tasks WHERE namespace = ? AND task_id = ?)"
        values += [tx.namespace, query.before]
    rows = tx.conn.execute(f"{sql} ORDER BY id DESC LIMIT ?", (*values, query.limit))
    return [record(row) for row in rows]


# An attempt that was interrupted waits again since its last dispatch, a new task since it is there.
_LOAD = """
SELECT state, CASE WHEN state = 'running' THEN worker_id END, timer IS NULL, COUNT(*),
  MIN(CASE WHEN attempt = 0 THEN created_at ELSE timer END),
  SUM(custody_attempt = attempt AND attempt > 0)
FROM tasks WHERE namespace = ? AND service = ? AND state IN ('queued', 'running', 'waiting')
GROUP BY 1, 2, 3
"""


def load(tx: Tx, service: str) -> ServiceLoad:
    """See ``StateStore.service_load``."""
    queued = blocked = waiting = custody = 0
    oldest: float | None = None
    running: dict[str, int] = {}
    rows = tx.conn.execute(_LOAD, (tx.namespace, service))
    for state, worker, timeless, number, since, kept in rows:
        if state == "running":
            custody += kept
            running[worker or ""] = running.get(worker or "", 0) + number
        elif state == "waiting":
            waiting += number
        elif timeless:
            blocked += number
        else:
            queued, oldest = number, since
    return ServiceLoad(
        queued=queued,
        blocked=blocked,
        waiting=waiting,
        running=running,
        custody=custody,
        oldest_queued_at=oldest,
    )
