"""Sessions and their tasks, as LlamaDeploy 0.8.1's control plane serves them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.control_plane.routes.deployments import (
    TASK_STATE_HEADER,
    Sequence,
    Wait,
    result_reply,
)
from llamadeploy.control_plane.routes.streaming import StreamFormat, stream_response
from llamadeploy.exceptions import NotFoundError
from llamadeploy.types import (
    CancelOutcome,
    EventDefinition,
    SessionDefinition,
    TaskDefinition,
    TaskResult,
    TaskStatus,
)

RESULT_WAIT_SECONDS = 0.5
"""How long ``result`` waits unless told: 0.8.1's client asks again every 0.5 s."""


def sessions_router(control_plane: ControlPlane) -> APIRouter:
    """Routes under ``/sessions``."""
    router = APIRouter(prefix="/sessions", tags=["Sessions"])
    _add_sessions(router, control_plane)
    _add_tasks(router, control_plane)
    _add_results(router, control_plane)
    return router


def _add_sessions(router: APIRouter, control_plane: ControlPlane) -> None:
    @router.post("/create")
    async def create_session() -> str:
        """Make a session and return its id."""
        return await control_plane.create_session()

    @router.get("")
    async def list_sessions() -> dict[str, SessionDefinition]:
        """All sessions by their ids."""
        return {s.session_id: s for s in await control_plane.list_sessions()}

    @router.get("/{session_id}")
    async def get_session(session_id: str) -> SessionDefinition:
        """A session with its task ids and state."""
        return await control_plane.get_session(session_id)

    @router.post("/{session_id}/delete")
    async def delete_session(session_id: str) -> None:
        """Idempotent; what is unfinished in the session is cancelled."""
        await control_plane.delete_session(session_id)

    @router.get("/{session_id}/state")
    async def get_state(session_id: str) -> dict[str, Any]:
        """The session's state, which orchestrators and clients share."""
        return await control_plane.session_state(session_id)

    @router.post("/{session_id}/state")
    async def merge_state(session_id: str, state: dict[str, Any]) -> None:
        """Shallow merge."""
        await control_plane.merge_session_state(session_id, state)


def _add_tasks(router: APIRouter, control_plane: ControlPlane) -> None:
    @router.post("/{session_id}/tasks")
    async def create_task(session_id: str, task: TaskDefinition) -> str:
        """Accept a task; the same id and body again is the same task."""
        created = await control_plane.create_task(task, session_id=session_id)
        return created.task_id

    @router.get("/{session_id}/tasks")
    async def list_tasks(session_id: str) -> list[TaskDefinition]:
        """The definitions of the session's tasks, oldest first."""
        return await control_plane.list_tasks(session_id)

    @router.get("/{session_id}/current_task")
    async def current_task(session_id: str) -> TaskDefinition | None:
        """The session's newest task, or null."""
        return await control_plane.current_task(session_id)

    @router.get("/{session_id}/tasks/{task_id}")
    async def task_status(session_id: str, task_id: str) -> TaskStatus:
        """Where a task stands."""
        return await control_plane.status(session_id, task_id)

    @router.post("/{session_id}/tasks/{task_id}/cancel")
    async def cancel_task(session_id: str, task_id: str) -> CancelOutcome:
        """End the task unless it has finished; the reply says which of the two holds."""
        return await control_plane.cancel(session_id, task_id)

    @router.post("/{session_id}/tasks/{task_id}/send_event")
    async def send_event(
        response: Response, session_id: str, task_id: str, event_def: EventDefinition
    ) -> None:
        """Send an event to a task, whether or not it has started. A finished task ignores it."""
        outcome = await control_plane.send_event(session_id, task_id, event_def)
        response.headers[TASK_STATE_HEADER] = outcome.state.value


def _add_results(router: APIRouter, control_plane: ControlPlane) -> None:
    @router.get("/{session_id}/tasks/{task_id}/result", response_model=None)
    async def get_result(
        request: Request, session_id: str, task_id: str, wait: Wait = RESULT_WAIT_SECONDS
    ) -> TaskResult | Response | None:
        """The result, or null when there is none within ``wait`` seconds."""
        return await result_reply(request, control_plane, session_id, task_id, wait)

    @router.get("/{session_id}/tasks/{task_id}/result_stream", response_class=StreamingResponse)
    async def stream_result(
        request: Request,
        session_id: str,
        task_id: str,
        after: Sequence = 0,
        format: StreamFormat = StreamFormat.LEGACY,
        follow: bool = True,
    ) -> Response:
        """The task's events from the first (or ``after``) on, one line each, until its end; without
        ``follow`` those that are there."""
        try:
            await control_plane.check_task(session_id, task_id)
        except NotFoundError as error:
            missing_task = str(error) == "Task not found"
            raise NotFoundError("Task stream not found" if missing_task else str(error)) from None
        return await stream_response(
            request, control_plane, task_id, after=after, style=format, follow=follow
        )
