"""Attempts: start, leases, park, release, and what a lost one leads to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llamadeploy.state_stores.records import (
    Dropped,
    Execution,
    ExecutionKey,
    Finished,
    OutboxRow,
    ParkRequest,
    Renewal,
    StartReply,
    StartRequest,
)
from llamadeploy.state_stores.sqlite import dispatch, endings, events
from llamadeploy.state_stores.sqlite.rows import COLUMNS, TaskRow, find_task, to_json
from llamadeploy.state_stores.sqlite.tombstones import is_buried
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import TaskState

_decode_ancestors = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_bases = msgspec.json.Decoder(dict[str, int]).decode

_BEGUN = ("running", "waiting", "succeeded", "failed")
"""States in which a first run was begun, and is not to be stopped."""

_STARTABLE = f"""
SELECT {COLUMNS}, COALESCE(i.stage_input, i.input), s.snapshot,
  CASE WHEN s.snapshot IS NULL THEN c.context END
FROM tasks t JOIN inputs i ON i.task = t.id LEFT JOIN snapshots s ON s.task = t.id
LEFT JOIN contexts c ON c.namespace = t.namespace AND c.session_id = t.session_id
  AND c.service = t.service
WHERE t.namespace = ? AND t.task_id = ?
"""  # noqa: S608


def start(tx: Tx, request: StartRequest) -> StartReply:
    """See ``ExecutionStore.start``."""
    row = tx.conn.execute(_STARTABLE, (tx.namespace, request.task_id)).fetchone()
    if row is None:
        return Dropped("terminal" if is_buried(tx, request.task_id) else "unknown")
    task, texts = TaskRow._make(row[:-3]), row[-3:]
    if task.terminal:
        return _follow(tx, task, texts, request) or Dropped("terminal")
    if task.state == "running":
        if task.execution_id == request.execution_id:
            _extend(tx, task, tx.now + request.lease)
            return _execution(tx, task, texts)
        if task.timer is not None and task.timer > tx.now:
            return _follow(tx, task, texts, request) or Dropped("leased")
        if out_of_retries(task):
            give_up_lost(tx, task)
            return Dropped("terminal")
        task = task._replace(crashes=task.crashes + 1)
        tx.observed.append(("redelivered", task.service))
    elif not task.dispatched:
        return _follow(tx, task, texts, request) or Dropped("not_due")
    return _execution(tx, _begin(tx, task, request), texts)


def _follow(
    tx: Tx, task: TaskRow, texts: tuple[str, str | None, str | None], request: StartRequest
) -> Execution | None:
    """A run beside the one that leads, or that led."""
    running = task.state == "running"
    if running and task.worker_id == request.worker_id:
        return None
    if running and request.follow == task.dispatch:
        execution = _execution(tx, task, texts)
    elif request.follow == 1 and task.stage == 0 and task.state in _BEGUN:
        afresh = task._replace(base_index=0, consumed_seq=0, wait_expired=0, run_seconds=0.0)
        execution = _execution(tx, afresh, (texts[0], None, _context(tx, task)))
    else:
        return None
    tx.conn.execute("UPDATE tasks SET followers = followers + 1 WHERE id = ?", (task.id,))
    return msgspec.structs.replace(execution, leading=False, alone=False)


def _context(tx: Tx, task: TaskRow) -> str | None:
    row = tx.conn.execute(
        "SELECT context FROM contexts WHERE namespace = ? AND session_id = ? AND service = ?",
        (tx.namespace, task.session_id, task.service),
    ).fetchone()
    return None if row is None else str(row[0])


def _begin(tx: Tx, task: TaskRow, request: StartRequest) -> TaskRow:
    attempt, bases = task.attempt + 1, task.bases
    if task.base_index:
        bases = to_json({**_decode_bases(bases), str(attempt): task.base_index})
    tx.conn.execute(
        "UPDATE tasks SET state = 'running', timer = ?, attempt = ?, bases = ?, crashes = ?,"
        " execution_id = ?, worker_id = ?, started_at = COALESCE(started_at, ?),"
        " queue_deadline = NULL WHERE id = ?",
        (
            tx.now + request.lease,
            attempt,
            bases,
            task.crashes,
            request.execution_id,
            request.worker_id,
            tx.now,
            task.id,
        ),
    )
    dispatch.leave_outbox(tx, task.id)
    tx.touched.append(task.task_id)
    waited = None if task.attempt else tx.now - task.created_at
    tx.observed.append(("started", task.service, task.task_id, waited))
    return task._replace(attempt=attempt)


def _execution(tx: Tx, task: TaskRow, texts: tuple[str, str | None, str | None]) -> Execution:
    text, snapshot, context = texts
    unread = task.inbound_seq > task.consumed_seq
    return Execution(
        task_id=task.task_id,
        session_id=task.session_id,
        service=task.service,
        attempt=task.attempt,
        input=text,
        context=context,
        snapshot=snapshot,
        base_index=task.base_index,
        inbound=tuple(events.inbound_after(tx, task.id, task.consumed_seq)) if unread else (),
        consumed_seq=task.consumed_seq,
        parked_code_version=task.parked_code_version,
        wait_expired=bool(task.wait_expired),
        run_seconds=task.run_seconds,
        alone=task.crashes > 0 and task.crashes + task.errors >= task.max_retries,
        keep_context=not task.detached,
        wait_timeout=task.wait_timeout,
        ancestors=_decode_ancestors(task.ancestors),
    )


def _extend(tx: Tx, task: TaskRow, until: float) -> None:
    tx.conn.execute("UPDATE tasks SET timer = ? WHERE id = ?", (until, task.id))


def renew(
    tx: Tx, worker_id: str, keys: Sequence[ExecutionKey], lease: float, custody: bool
) -> list[Renewal]:
    """See ``ExecutionStore.renew``."""
    return [_renew_one(tx, worker_id, key, lease, custody) for key in keys]


def _renew_one(tx: Tx, worker_id: str, key: ExecutionKey, lease: float, custody: bool) -> Renewal:
    task = find_task(tx, key.task_id)
    if task is None:
        return Renewal(key, alive=False)
    if not task.current(key.attempt) or task.worker_id != worker_id:
        return Renewal(
            key,
            alive=False,
            cancelled=task.state == TaskState.CANCELLED.value,
            inbound_seq=task.inbound_seq,
            live=task.state in ("queued", "running"),
        )
    _extend(tx, task, tx.now + lease)
    if custody:
        tx.conn.execute("UPDATE tasks SET custody_attempt = attempt WHERE id = ?", (task.id,))
    return Renewal(key, alive=True, inbound_seq=task.inbound_seq, live=True)


def park(tx: Tx, request: ParkRequest) -> Finished:
    """See ``ExecutionStore.park``."""
    task = find_task(tx, request.key.task_id)
    if task is None:
        return endings.REJECTED
    if not task.current(request.key.attempt):
        # The answer to this very park got lost: what it led to is in the store.
        last = task.attempt == task.parked_attempt == request.key.attempt
        return Finished(accepted=last and task.state in ("queued", "waiting"))
    events.write(tx, task, request.events)
    tx.conn.execute(
        "INSERT OR REPLACE INTO snapshots (task, snapshot) VALUES (?, ?)",
        (task.id, request.snapshot),
    )
    # An answer ends a wait: the next question gets the whole time again.
    answered = request.consumed_seq > task.consumed_seq
    parked_at = tx.now if task.parked_at is None or answered else task.parked_at
    limit = None if task.wait_timeout is None else parked_at + task.wait_timeout
    tx.conn.execute(
        "UPDATE tasks SET state = 'waiting', timer = ?, consumed_seq = ?, base_index = ?,"
        " parked_attempt = ?, parked_at = ?, parked_code_version = ?, wait_expired = 0,"
        " run_seconds = ?, execution_id = NULL, worker_id = NULL WHERE id = ?",
        (
            min((time for time in (request.deadline, limit) if time is not None), default=None),
            request.consumed_seq,
            request.next_index,
            request.key.attempt,
            parked_at,
            request.code_version,
            request.run_seconds,
            task.id,
        ),
    )
    tx.touched.append(task.task_id)
    tx.observed.append(("ran", task.service, task.task_id))
    if task.inbound_seq > request.consumed_seq:
        return Finished(accepted=True, publish=(dispatch.requeue(tx, task),))
    return Finished(accepted=True)


def release(tx: Tx, key: ExecutionKey) -> Finished:
    """See ``ExecutionStore.release``."""
    task = find_task(tx, key.task_id)
    if task is None or not task.current(key.attempt):
        return endings.REJECTED
    return Finished(accepted=True, publish=(dispatch.requeue(tx, task),))


def note_resident(tx: Tx, key: ExecutionKey, reason: str) -> bool:
    """See ``ExecutionStore.note_resident``."""
    cursor = tx.conn.execute(
        "UPDATE tasks SET resident = ?, resident_attempt = attempt"
        " WHERE namespace = ? AND task_id = ? AND attempt = ? AND state = 'running'",
        (reason, tx.namespace, key.task_id, key.attempt),
    )
    return cursor.rowcount > 0


def out_of_retries(task: TaskRow) -> bool:
    """Whether a running task may not be tried again after one more crash."""
    return task.crashes + task.errors >= task.max_retries


def lose(tx: Tx, task: TaskRow) -> tuple[OutboxRow, ...]:
    """The running attempt's lease ran out: try again, or give the task up."""
    if out_of_retries(task):
        return give_up_lost(tx, task)
    tx.conn.execute("UPDATE tasks SET crashes = crashes + 1 WHERE id = ?", (task.id,))
    tx.observed.append(("redelivered", task.service))
    return (dispatch.requeue(tx, task),)


def give_up_lost(tx: Tx, task: TaskRow) -> tuple[OutboxRow, ...]:
    """End a running task whose last permitted attempt was lost."""
    tx.conn.execute("UPDATE tasks SET crashes = crashes + 1 WHERE id = ?", (task.id,))
    crashes = task.crashes + 1
    message = (
        f"worker '{task.worker_id}' was lost while it ran the task; given up after "
        f"{crashes} lost {'attempt' if crashes == 1 else 'attempts'}"
    )
    return endings.give_up(tx, task, "WorkerLost", message)


def expire_worker(tx: Tx, worker_id: str) -> int:
    """See ``StateStore.expire_worker``."""
    cursor = tx.conn.execute(
        "UPDATE tasks SET timer = ? WHERE namespace = ? AND state = 'running' AND worker_id = ?"
        " AND timer > ?",
        (tx.now, tx.namespace, worker_id, tx.now),
    )
    return cursor.rowcount
