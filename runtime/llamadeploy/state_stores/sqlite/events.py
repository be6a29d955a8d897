"""The event log of a task (outwards) and its inbound log (human in the loop)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llamadeploy.state_stores.records import (
    ExecutionKey,
    InboundEvent,
    InboundOutcome,
    LoggedEvent,
    LogPage,
    NewEvent,
)
from llamadeploy.state_stores.sqlite.dispatch import requeue
from llamadeploy.state_stores.sqlite.rows import TaskRow, find_task
from llamadeploy.state_stores.sqlite.tasks import require
from llamadeploy.state_stores.sqlite.transaction import Tx

_decode_bases = msgspec.json.Decoder(dict[int, int]).decode
_LARGEST = 2**62


def append(tx: Tx, key: ExecutionKey, events: Sequence[NewEvent]) -> bool:
    """See ``ExecutionStore.append_events``."""
    task = find_task(tx, key.task_id)
    if task is None or not task.current(key.attempt):
        return False
    write(tx, task, events)
    return True


def append_foreign(tx: Tx, task_id: str, event: NewEvent) -> bool:
    """See ``StateStore.append_foreign_event``."""
    task = find_task(tx, task_id)
    if task is None or task.terminal:
        return False
    write(tx, task, (event,))
    return True


def write(tx: Tx, task: TaskRow, events: Sequence[NewEvent]) -> None:
    """Append to the log as the task's present attempt, whatever its state is."""
    if not events:
        return
    (last,) = tx.conn.execute(
        "SELECT COALESCE(MAX(seq), 0) FROM events WHERE task = ?", (task.id,)
    ).fetchone()
    tx.conn.executemany(
        "INSERT OR IGNORE INTO events (task, seq, attempt, idx, type, data)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (task.id, seq, task.attempt, event.index, event.type, event.data)
            for seq, event in enumerate(events, last + 1)
        ],
    )
    tx.touched.append(task.task_id)


def count(tx: Tx, task: TaskRow) -> int:
    """How many indices the stream has with the task's present attempt."""
    (last,) = tx.conn.execute(
        "SELECT MAX(idx) FROM events WHERE task = ? AND attempt = ?", (task.id, task.attempt)
    ).fetchone()
    return task.base_index if last is None else max(task.base_index, int(last) + 1)


def read_log(tx: Tx, task_id: str, after: int, limit: int) -> LogPage:
    """See ``StateStore.read_log``."""
    task = require(find_task(tx, task_id), task_id)
    rows = tx.conn.execute(
        "SELECT seq, attempt, idx, type, data FROM events WHERE task = ? AND seq > ?"
        " ORDER BY seq LIMIT ?",
        (task.id, min(after, _LARGEST), min(limit, _LARGEST)),
    )
    bases = _decode_bases(task.bases)
    return LogPage(
        state=task.shown_state,
        attempt=task.attempt,
        bases={n: bases.get(n, 0) for n in range(min(1, task.attempt), task.attempt + 1)},
        event_count=count(tx, task),
        events=tuple(LoggedEvent(*row) for row in rows),
    )


def append_inbound(tx: Tx, task_id: str, event: str) -> InboundOutcome:
    """See ``StateStore.append_inbound``; a terminal task takes no event."""
    task = require(find_task(tx, task_id), task_id)
    if task.terminal:
        return InboundOutcome(task.inbound_seq, task.shown_state)
    seq = task.inbound_seq + 1
    tx.conn.execute(
        "INSERT INTO inbound (task, seq, event) VALUES (?, ?, ?)", (task.id, seq, event)
    )
    tx.conn.execute("UPDATE tasks SET inbound_seq = ? WHERE id = ?", (seq, task.id))
    if task.state == "waiting":
        return InboundOutcome(seq, task.shown_state, publish=(requeue(tx, task),))
    return InboundOutcome(
        seq, task.shown_state, owner=task.worker_id if task.state == "running" else None
    )


def read_inbound(tx: Tx, key: ExecutionKey, after: int) -> list[InboundEvent]:
    """See ``ExecutionStore.read_inbound``."""
    task = find_task(tx, key.task_id)
    if task is None or task.attempt != key.attempt:
        return []
    return inbound_after(tx, task.id, after)


def inbound_after(tx: Tx, task: int, after: int) -> list[InboundEvent]:
    """The task's inbound events above ``after``."""
    rows = tx.conn.execute(
        "SELECT seq, event FROM inbound WHERE task = ? AND seq > ? ORDER BY seq", (task, after)
    )
    return [InboundEvent(*row) for row in rows]
