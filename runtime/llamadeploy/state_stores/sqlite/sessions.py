"""Sessions: their state, which belongs to the user, and their contexts, which belong to services.

``delete`` is in ``retention``, with the rest of forgetting.
"""

from __future__ import annotations

from typing import Any

from llamadeploy.exceptions import ConflictError, NotFoundError
from llamadeploy.state_stores.sqlite.rows import from_json, to_json
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import SessionDefinition


def create_session(tx: Tx, session_id: str) -> None:
    """Insert a session.

    Raises:
        ConflictError: it exists.
    """
    cursor = tx.conn.execute(
        "INSERT OR IGNORE INTO sessions (namespace, session_id, touched_at, checked_at)"
        " VALUES (?, ?, ?, ?)",
        (tx.namespace, session_id, tx.now, tx.now),
    )
    if cursor.rowcount == 0:
        raise ConflictError(f"session '{session_id}' exists already")


def require_session(tx: Tx, session_id: str) -> None:
    """Check that a session exists.

    Raises:
        NotFoundError: it does not.
    """
    row = tx.conn.execute(
        "SELECT 1 FROM sessions WHERE namespace = ? AND session_id = ?", (tx.namespace, session_id)
    ).fetchone()
    if row is None:
        raise NotFoundError("Session not found")  # the wire's own words


def get_session(tx: Tx, session_id: str) -> SessionDefinition | None:
    """See ``StateStore.get_session``."""
    row = tx.conn.execute(
        "SELECT state FROM sessions WHERE namespace = ? AND session_id = ?",
        (tx.namespace, session_id),
    ).fetchone()
    return None if row is None else _definition(tx, session_id, row[0])


def page(tx: Tx, after: str, limit: int) -> tuple[list[SessionDefinition], str | None]:
    """Sessions with ids above ``after``, and where the next page begins."""
    rows = tx.conn.execute(
        "SELECT session_id, state FROM sessions WHERE namespace = ? AND session_id > ?"
        " ORDER BY session_id LIMIT ?",
        (tx.namespace, after, limit),
    ).fetchall()
    found = [_definition(tx, session_id, state) for session_id, state in rows]
    return found, rows[-1][0] if len(rows) == limit else None


def merge_state(tx: Tx, session_id: str, patch: dict[str, Any]) -> None:
    """See ``StateStore.merge_session_state``."""
    state, _ = read_state(tx, session_id)
    write_state(tx, session_id, {**state, **patch})


def read_state(tx: Tx, session_id: str) -> tuple[dict[str, Any], int]:
    """The session's state and its version.

    Raises:
        NotFoundError: no such session.
    """
    row = tx.conn.execute(
        "SELECT state, version FROM sessions WHERE namespace = ? AND session_id = ?",
        (tx.namespace, session_id),
    ).fetchone()
    if row is None:
        raise NotFoundError("Session not found")  # the wire's own words
    return from_json(row[0]), row[1]


def write_state(tx: Tx, session_id: str, state: dict[str, Any]) -> None:
    """Replace the session's state; its version moves."""
    tx.conn.execute(
        "UPDATE sessions SET state = ?, version = version + 1, touched_at = ?"
        " WHERE namespace = ? AND session_id = ?",
        (to_json(state), tx.now, tx.namespace, session_id),
    )


def write_context(tx: Tx, session_id: str, service: str, context: str) -> None:
    """Replace the workflow context of a (session, service)."""
    tx.conn.execute(
        "INSERT OR REPLACE INTO contexts (namespace, session_id, service, context)"
        " VALUES (?, ?, ?, ?)",
        (tx.namespace, session_id, service, context),
    )


def _definition(tx: Tx, session_id: str, state: str) -> SessionDefinition:
    ids = tx.conn.execute(
        "SELECT task_id FROM tasks WHERE namespace = ? AND session_id = ? ORDER BY id",
        (tx.namespace, session_id),
    )
    return SessionDefinition(
        session_id=session_id, task_ids=[task_id for (task_id,) in ids], state=from_json(state)
    )
