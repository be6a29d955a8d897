"""What the timer puts right; everything here is found by an index, none of it by a scan."""

from __future__ import annotations

from llamadeploy.state_stores.records import OutboxRow, Repaired, RepairPolicy
from llamadeploy.state_stores.sqlite import dispatch, executions
from llamadeploy.state_stores.sqlite.endings import end, error_data
from llamadeploy.state_stores.sqlite.rows import ROUTING, TaskRow, find_task, select_tasks
from llamadeploy.state_stores.sqlite.transaction import Tx
from llamadeploy.types import TaskState

CLOCK_STEP = 60.0
"""Seconds: rows are leased for less, and no task was handed out in the future. Leases of runs
follow the clock by their renewal."""


def repair(tx: Tx, policy: RepairPolicy) -> Repaired:
    """See ``StateStore.repair``. What is over ends first, so that no message goes out for it."""
    publish: list[OutboxRow] = []
    _follow_clock(tx)
    lost, dead = _take_back(tx, policy, publish)
    timed_out = _end_waits(tx, policy, publish) + _end_queued(tx, policy, publish)
    publish += _lease_due(tx, policy)
    if policy.resend_unstarted_after is not None:
        publish += _resend(tx, policy, tx.now - policy.resend_unstarted_after)
    return Repaired(
        publish=tuple(publish),
        lost_leases=lost,
        dead_lettered=tuple(dead),
        timed_out=tuple(timed_out),
    )


def _follow_clock(tx: Tx) -> None:
    """What would be due only when a clock that was set back is where it was, is due now."""
    tx.conn.execute(
        "UPDATE outbox SET due = ? WHERE namespace = ? AND due > ?",
        (tx.now, tx.namespace, tx.now + CLOCK_STEP),
    )
    for state in ("queued", ROUTING):
        tx.conn.execute(
            "UPDATE tasks SET timer = ? WHERE namespace = ? AND state = ? AND timer > ?",
            (tx.now, tx.namespace, state, tx.now + CLOCK_STEP),
        )


def _lease_due(tx: Tx, policy: RepairPolicy) -> list[OutboxRow]:
    rows = tx.conn.execute(
        "SELECT row_id, kind, task_id FROM outbox o JOIN tasks t ON t.id = o.task"
        " WHERE o.namespace = ? AND due <= ? ORDER BY due LIMIT ?",
        (tx.namespace, tx.now, policy.limit),
    ).fetchall()
    tx.conn.executemany(
        "UPDATE outbox SET due = ? WHERE row_id = ?",
        [(tx.now + policy.outbox_lease, row_id) for row_id, _, _ in rows],
    )
    leased = []
    for row_id, kind, task_id in rows:
        task = find_task(tx, task_id)
        if task is not None:
            leased.append(dispatch.outbox_row(tx, row_id, task, kind, task.dispatch))
    return leased


def _resend(tx: Tx, policy: RepairPolicy, before: float) -> list[OutboxRow]:
    """Publish again, under the same id, what a forgetful queue may have lost."""
    unstarted = "t.state = ? AND t.timer <= ?"
    some, services = "", policy.resend_services
    if services is not None:
        some = f" AND t.service IN ({', '.join('?' * len(services))})"
    order = " ORDER BY t.timer LIMIT ?"
    queued = select_tasks(
        tx, unstarted + some + order, "queued", before, *(services or ()), policy.limit
    )
    routing = select_tasks(tx, unstarted + order, ROUTING, before, policy.limit)
    rows = []
    for task in queued + routing:
        tx.conn.execute("UPDATE tasks SET timer = ? WHERE id = ?", (tx.now, task.id))
        pending = tx.conn.execute("SELECT 1 FROM outbox WHERE task = ?", (task.id,)).fetchone()
        if pending is None:
            kind = "route" if task.state == ROUTING else "run"
            row_id = dispatch.insert_row(tx, task.id, kind)
            rows.append(dispatch.outbox_row(tx, row_id, task, kind, task.dispatch))
    return rows


def _take_back(tx: Tx, policy: RepairPolicy, publish: list[OutboxRow]) -> tuple[int, list[str]]:
    """Lost leases: how many, and which tasks ended with it."""
    lost = select_tasks(
        tx, "t.state = 'running' AND t.timer <= ? ORDER BY t.timer LIMIT ?", tx.now, policy.limit
    )
    for task in lost:
        publish += executions.lose(tx, task)
    return len(lost), [task.task_id for task in lost if executions.out_of_retries(task)]


def _end_waits(tx: Tx, policy: RepairPolicy, publish: list[OutboxRow]) -> list[str]:
    """Parked tasks whose time is over: out of ``wait_timeout``, or only of a waiter's own."""
    ended = []
    for task in select_tasks(
        tx, "t.state = 'waiting' AND t.timer <= ? ORDER BY t.timer LIMIT ?", tx.now, policy.limit
    ):
        if _waited_out(tx, task):
            message = f"nobody answered within {task.wait_timeout:g} s (wait-timeout)"
            publish += _time_out(tx, task, "WaitTimeout", message)
            ended.append(task.task_id)
        else:
            tx.conn.execute("UPDATE tasks SET wait_expired = 1 WHERE id = ?", (task.id,))
            publish.append(dispatch.requeue(tx, task))
    return ended


def _waited_out(tx: Tx, task: TaskRow) -> bool:
    if task.wait_timeout is None or task.parked_at is None:
        return False
    return task.parked_at + task.wait_timeout <= tx.now


def _end_queued(tx: Tx, policy: RepairPolicy, publish: list[OutboxRow]) -> list[str]:
    """Tasks that nobody started in time; only queued ones have a deadline.

    All of them end before a place is handed on, so that none of them is handed out meanwhile.
    """
    late = select_tasks(
        tx, "t.queue_deadline <= ? ORDER BY t.queue_deadline LIMIT ?", tx.now, policy.limit
    )
    message = "no worker started the task within its queue-timeout"
    for task in late:
        _time_out(tx, task._replace(place=None), "QueueTimeout", message)
    for place in sorted({(t.session_id, t.service) for t in late if t.place is not None}):
        publish += dispatch.advance(tx, *place)
    return [task.task_id for task in late]


def _time_out(tx: Tx, task: TaskRow, kind: str, message: str) -> tuple[OutboxRow, ...]:
    data = error_data(TaskState.FAILED, kind, message)
    return end(tx, task, TaskState.FAILED, message, data)


_NEXT_DUE = """
SELECT MIN(due) FROM outbox WHERE namespace = ?1
UNION ALL SELECT MIN(timer) FROM tasks WHERE namespace = ?1 AND state = 'running'
UNION ALL SELECT MIN(timer) FROM tasks WHERE namespace = ?1 AND state = 'waiting'
UNION ALL SELECT MIN(queue_deadline) FROM tasks
  WHERE namespace = ?1 AND queue_deadline IS NOT NULL
UNION ALL SELECT MIN(timer) + ?2 FROM tasks WHERE namespace = ?1 AND state = 'queued'
UNION ALL SELECT MIN(timer) + ?2 FROM tasks WHERE namespace = ?1 AND state = 'routing'
"""


def next_due(tx: Tx, resend_unstarted_after: float | None) -> float | None:
    """See ``StateStore.next_due``."""
    times = tx.conn.execute(_NEXT_DUE, (tx.namespace, resend_unstarted_after))
    return min((time for (time,) in times if time is not None), default=None)
