"""Creating and reading tasks."""

from __future__ import annotations

from typing import Any

from llamadeploy.exceptions import ConflictError, NotFoundError, SessionBusyError
from llamadeploy.state_stores.records import Created, NewTask, OutboxRow, TaskRecord
from llamadeploy.state_stores.sqlite import dispatch
from llamadeploy.state_stores.sqlite.rows import ROUTING, TaskRow, from_json, to_json
from llamadeploy.state_stores.sqlite.sessions import create_session, require_session
from llamadeploy.state_stores.sqlite.tombstones import is_buried
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import SessionPolicy, TaskDefinition, TaskState

_INSERT = """
INSERT INTO tasks (namespace, task_id, session_id, service, state, timer, place, dispatch,
  body_hash, max_retries, retry_on_error, queue_deadline, wait_timeout, orchestrated, detached,
  parent, ancestors, created_at)
VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def create(tx: Tx, task: NewTask) -> Created:
    """See ``StateStore.create_task``."""
    existing = _existing(tx, task)
    if existing is not None:
        return existing
    if task.new_session:
        create_session(tx, task.session_id)
    else:
        require_session(tx, task.session_id)
    detached = task.detached_context or task.policy is SessionPolicy.PARALLEL
    place, first = (None, True) if detached else _take_place(tx, task)
    number = _insert(tx, task, place, first, detached)
    tx.touched.append(task.task_id)
    if not first:
        return Created(task.task_id, task.session_id)
    row = OutboxRow(
        row_id=dispatch.insert_row(tx, number, "run"),
        message_id=f"{task.task_id}/1",
        kind="run",
        task_id=task.task_id,
        session_id=task.session_id,
        service=task.service,
        input=dispatch.inline(task.input),
        ancestors=task.ancestors,
    )
    return Created(task.task_id, task.session_id, publish=(row,))


def _existing(tx: Tx, task: NewTask) -> Created | None:
    row = tx.conn.execute(
        "SELECT body_hash, session_id FROM tasks WHERE namespace = ? AND task_id = ?",
        (tx.namespace, task.task_id),
    ).fetchone()
    if row is None:
        if is_buried(tx, task.task_id):
            raise ConflictError(
                f"task '{task.task_id}' existed and was forgotten; use a new task_id"
            )
        return None
    body_hash, session_id = row
    if body_hash != task.body_hash:
        raise ConflictError(
            f"task '{task.task_id}' exists already with another body; use a new task_id"
        )
    return Created(task.task_id, session_id, existed=True)


def _take_place(tx: Tx, task: NewTask) -> tuple[int, bool]:
    last = dispatch.last_place(tx, task.session_id, task.service)
    if last is None:
        return 1, True
    if task.policy is SessionPolicy.REJECT:
        raise SessionBusyError(
            f"session '{task.session_id}' has an unfinished task of service '{task.service}', "
            "which takes one at a time (session policy 'reject'); wait for it or use another "
            "session"
        )
    return last + 1, False


def _insert(tx: Tx, task: NewTask, place: int | None, first: bool, detached: bool) -> int:
    deadline = None if task.queue_timeout is None else tx.now + task.queue_timeout
    cursor = tx.conn.execute(
        _INSERT,
        (
            tx.namespace,
            task.task_id,
            task.session_id,
            task.service,
            tx.now if first else None,
            place,
            int(first),
            task.body_hash,
            task.max_retries,
            task.retry_on_error,
            deadline,
            task.wait_timeout,
            task.orchestrated,
            detached,
            task.parent,
            to_json(task.ancestors),
            tx.now,
        ),
    )
    number = cursor.lastrowid
    assert number is not None  # noqa: S101 - sqlite3 sets it for every insert
    tx.conn.execute("INSERT INTO inputs (task, input) VALUES (?, ?)", (number, task.input))
    return number


RECORDS = """
SELECT task_id, session_id, service, state, attempt, crashes, created_at, started_at, finished_at,
  result, data, event_count, worker_id, parent, timer, base_index,
  (SELECT MAX(idx) + 1 FROM events e WHERE e.task = t.id AND e.attempt = t.attempt),
  CASE WHEN resident_attempt = attempt AND state = 'running' THEN resident END,
  attempt + followers
FROM tasks t WHERE namespace = ?"""
"""The columns :func:`record` takes; a further condition may follow."""


def get(tx: Tx, task_id: str) -> TaskRecord | None:
    """See ``StateStore.get_task``."""
    row = tx.conn.execute(f"{RECORDS} AND task_id = ?", (tx.namespace, task_id)).fetchone()
    return None if row is None else record(row)


def record(row: tuple[Any, ...]) -> TaskRecord:
    """A row of :data:`RECORDS`."""
    state = TaskState.RUNNING if row[3] == ROUTING else TaskState(row[3])
    return TaskRecord(
        task_id=row[0],
        session_id=row[1],
        service=row[2],
        state=state,
        attempt=row[4],
        crashes=row[5],
        created_at=row[6],
        started_at=row[7],
        finished_at=row[8],
        result=row[9] if state.terminal else None,
        data=from_json(row[10]) if state.terminal else {},
        event_count=row[11] if state.terminal else max(row[15], row[16] or 0),
        owner=row[12] if row[3] == "running" else None,
        parent=row[13],
        wait_deadline=row[14] if state is TaskState.WAITING else None,
        resident=row[17],
        runs=row[18],
    )


def get_input(tx: Tx, task_id: str) -> str | None:
    """See ``StateStore.get_input``."""
    row = tx.conn.execute(
        "SELECT COALESCE(stage_input, input) FROM tasks t JOIN inputs i ON i.task = t.id"
        " WHERE namespace = ? AND task_id = ?",
        (tx.namespace, task_id),
    ).fetchone()
    return None if row is None else str(row[0])


def page(tx: Tx, after: int, limit: int) -> tuple[list[TaskDefinition], int | None]:
    """Definitions of all sessions from number ``after`` on, and where the next page begins."""
    rows = tx.conn.execute(
        "SELECT t.id, task_id, session_id, service, input FROM tasks t"
        " JOIN inputs i ON i.task = t.id WHERE t.id > ? AND namespace = ? ORDER BY t.id LIMIT ?",
        (after, tx.namespace, limit),
    ).fetchall()
    return [_definition(row) for row in rows], rows[-1][0] if len(rows) == limit else None


def of_session(tx: Tx, session_id: str) -> list[TaskDefinition]:
    """Definitions of one session, oldest first.

    Raises:
        NotFoundError: no such session.
    """
    require_session(tx, session_id)
    rows = tx.conn.execute(
        "SELECT t.id, task_id, session_id, service, input FROM tasks t"
        " JOIN inputs i ON i.task = t.id WHERE namespace = ? AND session_id = ? ORDER BY t.id",
        (tx.namespace, session_id),
    )
    return [_definition(row) for row in rows]


def _definition(row: tuple[int, str, str, str, str]) -> TaskDefinition:
    _, task_id, session_id, service, text = row
    return TaskDefinition(input=text, task_id=task_id, session_id=session_id, service_id=service)


def counts(tx: Tx) -> dict[str, int]:
    """See ``StateStore.counts``."""
    found = dict.fromkeys((state.value for state in TaskState), 0)
    for state, number in tx.conn.execute(
        "SELECT state, COUNT(*) FROM tasks WHERE namespace = ? GROUP BY state", (tx.namespace,)
    ):
        found["running" if state == ROUTING else state] += number
    (found["outbox"],) = tx.conn.execute(
        "SELECT COUNT(*) FROM outbox WHERE namespace = ?", (tx.namespace,)
    ).fetchone()
    return found


def require(task: TaskRow | None, task_id: str) -> TaskRow:
    """The task.

    Raises:
        NotFoundError: it is ``None``.
    """
    if task is None:
        raise NotFoundError(f"task '{task_id}' does not exist (or has expired)")
    return task
