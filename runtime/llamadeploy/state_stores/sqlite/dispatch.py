"""Whose turn it is, and the outbox row that tells a worker so.

A task that is queued and dispatched has an outbox row until the row was published. The row is for
the task's present ``dispatch``, whose number is part of the message's id: publishing it again
repeats the id, handing the task out again makes a new one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llamadeploy.state_stores.records import INLINE_INPUT_LIMIT, OutboxRow
from llamadeploy.state_stores.sqlite.rows import ROUTING, TaskRow, select_tasks
from llamadeploy.state_stores.sqlite.transaction import Tx

PUBLISH_LEASE = 5.0
"""Seconds for which a new row belongs to whoever caused it; later any ``repair`` publishes it."""

_decode_ancestors = msgspec.json.Decoder(tuple[str, ...]).decode


def inline(text: str) -> str | None:
    """``text`` where it may travel in a message, else ``None``."""
    size = len(text) if text.isascii() else len(text.encode())
    return text if size <= INLINE_INPUT_LIMIT else None


def insert_row(tx: Tx, task: int, kind: str) -> int:
    """Insert (or renew) the outbox row of a task; returns its number."""
    cursor = tx.conn.execute(
        "INSERT OR REPLACE INTO outbox (namespace, task, kind, due) VALUES (?, ?, ?, ?)",
        (tx.namespace, task, kind, tx.now + PUBLISH_LEASE),
    )
    row_id = cursor.lastrowid
    assert row_id is not None  # noqa: S101 - sqlite3 sets it for every insert
    return row_id


def read_input(tx: Tx, task: int) -> str:
    """The input of the task's present stage."""
    (text,) = tx.conn.execute(
        "SELECT COALESCE(stage_input, input) FROM inputs WHERE task = ?", (task,)
    ).fetchone()
    return str(text)


def outbox_row(tx: Tx, row_id: int, task: TaskRow, kind: str, dispatch: int) -> OutboxRow:
    """The row as the publisher gets it."""
    return OutboxRow(
        row_id=row_id,
        message_id=f"{task.task_id}/{dispatch}",
        kind=kind,
        task_id=task.task_id,
        session_id=task.session_id,
        service=task.service,
        input=None if kind == "route" else inline(read_input(tx, task.id)),
        ancestors=_decode_ancestors(task.ancestors),
    )


def requeue(tx: Tx, task: TaskRow) -> OutboxRow:
    """Make the task queued and hand it out anew: its turn came, or comes again."""
    dispatch = task.dispatch + 1
    tx.conn.execute(
        "UPDATE tasks SET state = 'queued', timer = ?, dispatch = ?, execution_id = NULL,"
        " worker_id = NULL WHERE id = ?",
        (tx.now, dispatch, task.id),
    )
    tx.touched.append(task.task_id)
    return outbox_row(tx, insert_row(tx, task.id, "run"), task, "run", dispatch)


def start_routing(tx: Tx, task: TaskRow) -> OutboxRow:
    """Ask the orchestrators what follows; the task's row was updated by the caller."""
    dispatch = task.dispatch + 1
    tx.conn.execute(
        "UPDATE tasks SET state = ?, timer = ?, dispatch = ? WHERE id = ?",
        (ROUTING, tx.now, dispatch, task.id),
    )
    tx.touched.append(task.task_id)
    return outbox_row(tx, insert_row(tx, task.id, "route"), task, "route", dispatch)


def leave_outbox(tx: Tx, task: int) -> None:
    """The task's row, if any, is moot: it was started, routed or ended."""
    tx.conn.execute("DELETE FROM outbox WHERE task = ?", (task,))


def last_place(tx: Tx, session_id: str, service: str) -> int | None:
    """The last place taken in a session's order of a service; ``None``: it is free."""
    (place,) = tx.conn.execute(
        "SELECT MAX(place) FROM tasks WHERE namespace = ? AND session_id = ? AND service = ?"
        " AND place IS NOT NULL",
        (tx.namespace, session_id, service),
    ).fetchone()
    return None if place is None else int(place)


def advance(tx: Tx, session_id: str, service: str) -> tuple[OutboxRow, ...]:
    """Hand out the head of a session's order of a service, unless it has been already."""
    heads = select_tasks(
        tx,
        "session_id = ? AND service = ? AND place IS NOT NULL ORDER BY place LIMIT 1",
        session_id,
        service,
    )
    if heads and heads[0].state == "queued" and heads[0].timer is None:
        return (requeue(tx, heads[0]),)
    return ()


def done(tx: Tx, row_ids: Sequence[int]) -> None:
    """The rows were published."""
    tx.conn.executemany(
        "DELETE FROM outbox WHERE row_id = ? AND namespace = ?",
        [(row_id, tx.namespace) for row_id in row_ids],
    )
