"""The end of a task: its one result, and what that sets free."""

from __future__ import annotations

from typing import Any

from llamadeploy.exceptions import ConflictError, NotFoundError
from llamadeploy.state_stores.records import (
    Cancelled,
    Completion,
    DeadLetter,
    Finished,
    OutboxRow,
    TaskRecord,
)
from llamadeploy.state_stores.sqlite import dispatch, events
from llamadeploy.state_stores.sqlite.rows import TaskRow, find_task, select_tasks, to_json
from llamadeploy.state_stores.sqlite.sessions import write_context
from llamadeploy.state_stores.sqlite.tasks import require
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import TaskState

REJECTED = Finished(accepted=False)
LIVE = "t.state IN ('queued', 'running', 'waiting', 'routing')"


def error_data(state: TaskState, kind: str, message: str) -> dict[str, Any]:
    """``data`` of a task that the store ended itself."""
    error = {"type": kind, "message": message, "traceback": ""}
    return {"state": state.value, "error": error}


def end(
    tx: Tx,
    task: TaskRow,
    state: TaskState,
    result: str,
    data: dict[str, Any],
    *,
    keep_snapshot: bool = False,
) -> tuple[OutboxRow, ...]:
    """Write the result of an unfinished task and free its place; returns the next one's row."""
    event_count = events.count(tx, task)
    tx.conn.execute(
        "UPDATE tasks SET state = ?, timer = ?, finished_at = ?, place = NULL,"
        " queue_deadline = NULL, event_count = ?, result = ?, data = ? WHERE id = ?",
        (
            state.value,
            tx.now,
            tx.now,
            event_count,
            result,
            to_json(data) if data else None,
            task.id,
        ),
    )
    if task.state != "running":
        dispatch.leave_outbox(tx, task.id)
    if task.parked_attempt and not keep_snapshot:
        tx.conn.execute("DELETE FROM snapshots WHERE task = ?", (task.id,))
    tx.touched.append(task.task_id)
    tx.ended.append((task.task_id, _record(tx, task, state, result, data, event_count)))
    tx.observed.append(("ended", task.service, task.task_id, state.value))
    if task.place is None:
        return ()
    return dispatch.advance(tx, task.session_id, task.service)


def _record(
    tx: Tx, task: TaskRow, state: TaskState, result: str, data: dict[str, Any], event_count: int
) -> TaskRecord:
    return TaskRecord(
        task_id=task.task_id,
        session_id=task.session_id,
        service=task.service,
        state=state,
        attempt=task.attempt,
        crashes=task.crashes,
        created_at=task.created_at,
        started_at=task.started_at,
        finished_at=tx.now,
        result=result,
        data=data,
        event_count=event_count,
        parent=task.parent,
        runs=task.attempt + task.followers,
    )


def finish(tx: Tx, completion: Completion) -> Finished:
    """See ``ExecutionStore.finish``."""
    key = completion.key
    task = find_task(tx, key.task_id)
    if task is None:
        return REJECTED
    if not task.current(key.attempt):
        return Finished(accepted=_is_repeat(tx, task, completion))
    events.write(tx, task, completion.events)
    tx.observed.append(("ran", task.service, task.task_id))
    if completion.state is TaskState.FAILED and _may_retry(task, completion):
        tx.observed.append(("redelivered", task.service))
        tx.conn.execute("UPDATE tasks SET errors = errors + 1 WHERE id = ?", (task.id,))
        return Finished(accepted=True, publish=(dispatch.requeue(tx, task),))
    succeeded = completion.state is TaskState.SUCCEEDED
    if succeeded and completion.context is not None and not task.detached:
        write_context(tx, task.session_id, task.service, completion.context)
    return deliver(tx, task, completion.state, completion.result, completion.data)


def _may_retry(task: TaskRow, completion: Completion) -> bool:
    used = task.crashes + task.errors
    return bool(task.retry_on_error) and completion.retryable and used < task.max_retries


def _is_repeat(tx: Tx, task: TaskRow, completion: Completion) -> bool:
    """Whether this very completion was accepted before (its answer got lost)."""
    if task.attempt != completion.key.attempt or task.state != completion.state.value:
        return False
    (result,) = tx.conn.execute("SELECT result FROM tasks WHERE id = ?", (task.id,)).fetchone()
    return bool(result == completion.result)


def deliver(tx: Tx, task: TaskRow, state: TaskState, result: str, data: dict[str, Any]) -> Finished:
    """A service delivered: end the task, or let the orchestrator say what follows."""
    if not task.orchestrated:
        return Finished(accepted=True, publish=end(tx, task, state, result, data))
    tx.conn.execute(
        "UPDATE tasks SET place = NULL, queue_deadline = NULL, stage = stage + 1, result = ?,"
        " data = ?, base_index = ?, consumed_seq = inbound_seq, execution_id = NULL,"
        " worker_id = NULL WHERE id = ?",
        (result, to_json(data) if data else None, events.count(tx, task), task.id),
    )
    tx.conn.execute("DELETE FROM snapshots WHERE task = ?", (task.id,))
    rows: tuple[OutboxRow, ...] = (dispatch.start_routing(tx, task),)
    if task.place is not None:
        rows += dispatch.advance(tx, task.session_id, task.service)
    return Finished(accepted=True, publish=rows)


def complete(tx: Tx, task_id: str, result: str, data: dict[str, Any]) -> Finished:
    """See ``StateStore.complete``; ``data`` says whether it failed."""
    task = find_task(tx, task_id)
    if task is None or task.terminal or task.state == "routing":
        return REJECTED
    failed = data.get("state") == TaskState.FAILED.value
    return deliver(tx, task, TaskState.FAILED if failed else TaskState.SUCCEEDED, result, data)


def cancel(tx: Tx, task_id: str, reason: str) -> Cancelled:
    """See ``StateStore.cancel``."""
    task = require(find_task(tx, task_id), task_id)
    if task.terminal:
        return Cancelled(task.shown_state, changed=False)
    nudge, publish = cancel_tree(tx, [task], reason)
    return Cancelled(TaskState.CANCELLED, changed=True, nudge=nudge, publish=publish)


def cancel_tree(
    tx: Tx, tasks: list[TaskRow], reason: str
) -> tuple[tuple[tuple[str, str], ...], tuple[OutboxRow, ...]]:
    """End unfinished tasks and the unfinished calls below them.

    All of them end before a place is handed on, so that none of them is handed out meanwhile.
    Returns the workers to nudge, and rows to publish.
    """
    tree: dict[int, TaskRow] = {}
    pending = list(tasks)
    while pending:
        task = pending.pop()
        if task.id not in tree:
            tree[task.id] = task
            pending += select_tasks(tx, f"t.parent = ? AND {LIVE}", task.task_id)
    data = error_data(TaskState.CANCELLED, "Cancelled", reason)
    nudge: list[tuple[str, str]] = []
    for task in tree.values():
        end(tx, task._replace(place=None), TaskState.CANCELLED, reason, data)
        if task.state == "running" and task.worker_id is not None:
            nudge.append((task.task_id, task.worker_id))
    places = {(t.session_id, t.service) for t in tree.values() if t.place is not None}
    rows = [row for place in sorted(places) for row in dispatch.advance(tx, *place)]
    return tuple(nudge), tuple(rows)


def give_up(tx: Tx, task: TaskRow, kind: str, message: str) -> tuple[OutboxRow, ...]:
    """End a task as failed and put it among the dead letters; a retry resumes its snapshot."""
    add_dead_letter(tx, message, None, task.service, task.task_id)
    data = error_data(TaskState.FAILED, kind, message)
    return end(tx, task, TaskState.FAILED, message, data, keep_snapshot=True)


def give_up_queued(tx: Tx, task_id: str, reason: str) -> Finished:
    """See ``StateStore.give_up``."""
    task = find_task(tx, task_id)
    if task is None or task.state != TaskState.QUEUED.value:
        return REJECTED
    return Finished(accepted=True, publish=give_up(tx, task, "MessageLost", reason))


def add_dead_letter(
    tx: Tx, reason: str, message: str | None, service: str, task_id: str | None = None
) -> int:
    """Insert a dead letter; returns its number."""
    cursor = tx.conn.execute(
        "INSERT INTO dead_letters (namespace, created_at, reason, service, task_id, message)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (tx.namespace, tx.now, reason, service, task_id, message),
    )
    tx.observed.append(("dead_letter", service))
    return cursor.lastrowid or 0


def dead_letters(tx: Tx) -> list[DeadLetter]:
    """Oldest first."""
    rows = tx.conn.execute(
        "SELECT letter_id, created_at, reason, service, task_id, message FROM dead_letters"
        " WHERE namespace = ? ORDER BY letter_id",
        (tx.namespace,),
    )
    return [
        DeadLetter(
            letter_id=number, created_at=at, reason=why, service=name, task_id=task, message=text
        )
        for number, at, why, name, task, text in rows
    ]


def delete_dead_letter(tx: Tx, letter_id: int) -> bool:
    """Whether there was one."""
    cursor = tx.conn.execute(
        "DELETE FROM dead_letters WHERE letter_id = ? AND namespace = ?",
        (letter_id, tx.namespace),
    )
    return cursor.rowcount > 0


def retry_dead_letter(tx: Tx, letter_id: int) -> tuple[OutboxRow, ...]:
    """See ``StateStore.retry_dead_letter``: a new life at the end of its session's order."""
    row = tx.conn.execute(
        "SELECT task_id FROM dead_letters WHERE letter_id = ? AND namespace = ?",
        (letter_id, tx.namespace),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"dead letter {letter_id} does not exist")
    task = None if row[0] is None else find_task(tx, row[0])
    if task is None:
        raise NotFoundError(f"the task of dead letter {letter_id} is gone: it cannot be retried")
    if task.state != TaskState.FAILED.value:
        raise ConflictError(f"task '{task.task_id}' is {task.shown_state.value}, not failed")
    delete_dead_letter(tx, letter_id)
    last = None if task.detached else dispatch.last_place(tx, task.session_id, task.service)
    tx.conn.execute(
        "UPDATE tasks SET state = 'queued', timer = NULL, place = ?, crashes = 0, errors = 0,"
        " parked_at = NULL, finished_at = NULL, event_count = 0, result = NULL, data = NULL"
        " WHERE id = ?",
        (None if task.detached else (last or 0) + 1, task.id),
    )
    tx.touched.append(task.task_id)
    return (dispatch.requeue(tx, task),) if last is None else ()
