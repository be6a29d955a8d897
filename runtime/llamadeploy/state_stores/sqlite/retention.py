"""Forgetting: finished tasks, idle sessions, deleted sessions. Tombstones stay."""

from __future__ import annotations

from collections.abc import Sequence

from llamadeploy.state_stores.records import Cancelled
from llamadeploy.state_stores.sqlite import tombstones
from llamadeploy.state_stores.sqlite.endings import LIVE, cancel_tree
from llamadeploy.state_stores.sqlite.rows import select_tasks
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import TaskState

_CHILDREN = ("inputs", "events", "inbound", "snapshots", "outbox")

_EXPIRED = """
SELECT id, task_id, session_id FROM tasks t
WHERE namespace = ? AND state IN ('succeeded', 'failed', 'cancelled') AND timer < ?
  AND (parent IS NULL OR NOT EXISTS (SELECT 1 FROM tasks p WHERE p.namespace = t.namespace
    AND p.task_id = t.parent AND p.state IN ('queued', 'running', 'waiting', 'routing')))
LIMIT ?
"""
"""A live caller keeps its finished calls: when it runs again it finds them instead of repeating."""


def expire(tx: Tx, older_than: float, limit: int) -> int:
    """See ``StateStore.expire``."""
    rows = tx.conn.execute(_EXPIRED, (tx.namespace, older_than, limit)).fetchall()
    forget_tasks(tx, [(number, task_id) for number, task_id, _ in rows])
    for session_id in {session_id for _, _, session_id in rows}:
        if not _has_tasks(tx, session_id):
            _delete_idle(tx, session_id, older_than)
    _check_sessions(tx, older_than, limit)
    tx.conn.execute(
        "DELETE FROM dead_letters WHERE namespace = ? AND created_at < ?",
        (tx.namespace, older_than),
    )
    tombstones.purge(tx, limit)
    return len(rows)


def _check_sessions(tx: Tx, older_than: float, limit: int) -> None:
    """Remove idle sessions that have no task to expire; look at the others later again."""
    rows = tx.conn.execute(
        "SELECT session_id, touched_at FROM sessions WHERE namespace = ? AND checked_at < ?"
        " ORDER BY checked_at LIMIT ?",
        (tx.namespace, older_than, limit),
    ).fetchall()
    for session_id, touched_at in rows:
        busy = _has_tasks(tx, session_id)
        if busy or touched_at >= older_than:
            tx.conn.execute(
                "UPDATE sessions SET checked_at = ? WHERE namespace = ? AND session_id = ?",
                (tx.now if busy else touched_at, tx.namespace, session_id),
            )
        else:
            _delete_idle(tx, session_id, older_than)


def _has_tasks(tx: Tx, session_id: str) -> bool:
    row = tx.conn.execute(
        "SELECT 1 FROM tasks WHERE namespace = ? AND session_id = ? LIMIT 1",
        (tx.namespace, session_id),
    ).fetchone()
    return row is not None


def _delete_idle(tx: Tx, session_id: str, older_than: float) -> None:
    cursor = tx.conn.execute(
        "DELETE FROM sessions WHERE namespace = ? AND session_id = ? AND touched_at < ?",
        (tx.namespace, session_id, older_than),
    )
    if cursor.rowcount:
        _delete_contexts(tx, session_id)


def _delete_contexts(tx: Tx, session_id: str) -> None:
    tx.conn.execute(
        "DELETE FROM contexts WHERE namespace = ? AND session_id = ?", (tx.namespace, session_id)
    )


def forget_tasks(tx: Tx, tasks: Sequence[tuple[int, str]]) -> None:
    """:func:`delete_tasks`, and remember that they were there."""
    delete_tasks(tx, tasks)
    tombstones.bury(tx, [task_id for _, task_id in tasks])


def delete_tasks(tx: Tx, tasks: Sequence[tuple[int, str]]) -> None:
    """Delete tasks, given by number and id, with all that hangs off them."""
    numbers = [(number,) for number, _ in tasks]
    for table in _CHILDREN:
        tx.conn.executemany(f"DELETE FROM {table} WHERE task = ?", numbers)  # noqa: S608
    tx.conn.executemany("DELETE FROM tasks WHERE id = ?", numbers)
    ids = [task_id for _, task_id in tasks]
    tx.touched.extend(ids)
    tx.ended.extend((task_id, None) for task_id in ids)


def purge(tx: Tx, limit: int) -> int:
    """Part of ``StateStore.purge``: up to ``limit`` tasks; with the last of them, all else."""
    rows = tx.conn.execute(
        "SELECT id, task_id FROM tasks WHERE namespace = ? LIMIT ?", (tx.namespace, limit)
    ).fetchall()
    delete_tasks(tx, rows)
    if len(rows) < limit:
        for table in ("outbox", "contexts", "sessions", "services", "dead_letters"):
            tx.conn.execute(
                f"DELETE FROM {table} WHERE namespace = ?",  # noqa: S608 - a name of ours
                (tx.namespace,),
            )
    return len(rows)


def delete_session(tx: Tx, session_id: str) -> Cancelled | None:
    """See ``StateStore.delete_session``."""
    cursor = tx.conn.execute(
        "DELETE FROM sessions WHERE namespace = ? AND session_id = ?", (tx.namespace, session_id)
    )
    if cursor.rowcount == 0:
        return None
    live = select_tasks(tx, f"t.session_id = ? AND {LIVE}", session_id)
    nudge, publish = cancel_tree(tx, live, "its session was deleted") if live else ((), ())
    tasks = tx.conn.execute(
        "SELECT id, task_id FROM tasks WHERE namespace = ? AND session_id = ?",
        (tx.namespace, session_id),
    ).fetchall()
    forget_tasks(tx, tasks)
    _delete_contexts(tx, session_id)
    return Cancelled(TaskState.CANCELLED, changed=bool(live), nudge=nudge, publish=publish)


def forget_sessions(tx: Tx, session_ids: Sequence[str]) -> list[str]:
    """See ``StateStore.forget_sessions``."""
    busy: list[str] = []
    forgotten: list[tuple[int, str]] = []
    for session_id in session_ids:
        rows = tx.conn.execute(
            "SELECT id, task_id, state FROM tasks WHERE namespace = ? AND session_id = ?",
            (tx.namespace, session_id),
        ).fetchall()
        if any(state in LIVE for _, _, state in rows):
            busy.append(session_id)
            continue
        tx.conn.execute(
            "DELETE FROM sessions WHERE namespace = ? AND session_id = ?",
            (tx.namespace, session_id),
        )
        _delete_contexts(tx, session_id)
        forgotten += [(number, task_id) for number, task_id, _ in rows]
    forget_tasks(tx, forgotten)
    return busy
