"""Between two services of a custom orchestrator."""

from __future__ import annotations

from llamadeploy.state_stores.records import Finished, RouteCommit, RoutingStage
from llamadeploy.state_stores.sqlite import dispatch
from llamadeploy.state_stores.sqlite.endings import REJECTED, end
from llamadeploy.state_stores.sqlite.rows import ROUTING, TaskRow, find_task, from_json
from llamadeploy.state_stores.sqlite.sessions import read_state, write_state
from llamadeploy.state_stores.sqlite.transaction import Tx


def stage(tx: Tx, task_id: str) -> RoutingStage | None:
    """See ``StateStore.routing_stage``; ``input`` is the task's, not the stage's."""
    task = find_task(tx, task_id)
    if task is None or task.state != ROUTING:
        return None
    text, result, data = tx.conn.execute(
        "SELECT input, result, data FROM tasks t JOIN inputs i ON i.task = t.id WHERE t.id = ?",
        (task.id,),
    ).fetchone()
    state, version = read_state(tx, task.session_id)
    return RoutingStage(
        task_id=task_id,
        session_id=task.session_id,
        service=task.service,
        input=text,
        stage=task.stage,
        result=result,
        data=from_json(data),
        state=state,
        version=version,
    )


def commit(tx: Tx, decision: RouteCommit) -> Finished:
    """See ``StateStore.commit_route``."""
    task = find_task(tx, decision.task_id)
    if task is None or task.state != ROUTING or task.stage != decision.stage:
        return REJECTED
    _, version = read_state(tx, task.session_id)
    if version != decision.version:
        return REJECTED
    write_state(tx, task.session_id, decision.state)
    if decision.next_service is not None:
        return _continue(tx, task, decision.next_service, decision.next_input)
    result = decision.final_result
    if result is None:
        (result,) = tx.conn.execute("SELECT result FROM tasks WHERE id = ?", (task.id,)).fetchone()
    rows = end(tx, task, decision.final_state, result, decision.final_data)
    return Finished(accepted=True, publish=rows)


def _continue(tx: Tx, task: TaskRow, service: str, text: str | None) -> Finished:
    """The next service's turn: a fresh run, at the end of the session's order of that service."""
    last = None if task.detached else dispatch.last_place(tx, task.session_id, service)
    dispatch.leave_outbox(tx, task.id)
    if text is not None:
        tx.conn.execute("UPDATE inputs SET stage_input = ? WHERE task = ?", (text, task.id))
    tx.conn.execute(
        "UPDATE tasks SET state = 'queued', timer = NULL, service = ?, place = ?, crashes = 0,"
        " errors = 0, parked_attempt = 0, parked_at = NULL, parked_code_version = '',"
        " wait_expired = 0, run_seconds = 0, result = NULL, data = NULL WHERE id = ?",
        (service, None if task.detached else (last or 0) + 1, task.id),
    )
    tx.touched.append(task.task_id)
    if last is not None:
        return Finished(accepted=True)
    row = dispatch.requeue(tx, task._replace(service=service))
    return Finished(accepted=True, publish=(row,))
