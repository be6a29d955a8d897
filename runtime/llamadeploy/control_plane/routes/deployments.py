"""Tasks and sessions of a deployment, as an API server and a control plane serve them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.control_plane.routes.dead_letters import LARGEST, dead_letters_router
from llamadeploy.control_plane.routes.operations import (
    observation_router,
    service_operations_router,
)
from llamadeploy.control_plane.routes.parsing import body_schema, read_body
from llamadeploy.control_plane.routes.providers import Resolve, by_path
from llamadeploy.control_plane.routes.streaming import StreamFormat, stream_response
from llamadeploy.control_plane.routes.waiting import (
    CLIENT_CLOSED_REQUEST,
    MAX_WAIT_SECONDS,
    ClientDisconnected,
    while_connected,
)
from llamadeploy.control_plane.validation import InvalidFieldError
from llamadeploy.http.hot_routes import hot
from llamadeploy.state_stores.records import TaskQuery
from llamadeploy.types import (
    CancelOutcome,
    EventDefinition,
    SessionDefinition,
    TaskDefinition,
    TaskResult,
    TaskState,
    TaskStatus,
)

SessionQuery = Annotated[str | None, Query()]
Wait = Annotated[float, Query(ge=0)]
Sequence = Annotated[int, Query(ge=0, le=LARGEST, description="skip events up to this one")]

MAX_LISTED = 1000
"""Tasks of one page of a listing."""

TASK_STATE_HEADER = "X-Task-State"
"""Of a reply to ``run``: how the task ended. To a sent event: where the task stood. Clients of
0.8.1 know no error for a failed task or for a late event; newer ones see it here."""


_CREATION = {
    **body_schema(TaskDefinition),
    "parameters": [
        {"in": place, "name": name, "required": place == "path", "schema": {"type": "string"}}
        for place, name in (
            ("path", "deployment_name"),
            ("query", "session_id"),
            ("header", "Idempotency-Key"),
        )
    ],
}


def deployments_router(resolve: Resolve) -> APIRouter:
    """Routes under ``/deployments/{deployment_name}`` about tasks and sessions.

    Args:
        resolve: the deployment's control plane; raises NotFoundError("Deployment not found").
    """
    router = APIRouter(prefix="/deployments/{deployment_name}", tags=["Deployments"])
    _add_creation(router, resolve)
    _add_listing(router, resolve)
    _add_tasks(router, resolve)
    _add_sessions(router, resolve)
    provider = by_path(resolve)
    router.include_router(service_operations_router(provider))
    router.include_router(observation_router(provider))
    router.include_router(dead_letters_router(provider))
    return router


def _add_creation(router: APIRouter, resolve: Resolve) -> None:
    # Both routes take the bare request: they are hot, and ids follow rules of their own.
    @router.post("/tasks/run", response_model=str, openapi_extra=_CREATION)
    @hot
    async def run_task(request: Request) -> Response:
        """Run a task and return its result's text. Without a session it gets one of its own,
        which is deleted when the task succeeded."""
        control_plane = resolve(request.path_params["deployment_name"])
        task, key = await _read_task(request, control_plane)
        running = control_plane.run_task(task, session_id=task.session_id, idempotency_key=key)
        try:
            record = await while_connected(request, running)
        except ClientDisconnected:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(
            record.result or "",
            headers={
                "X-Task-Id": record.task_id,
                "X-Session-Id": record.session_id,
                TASK_STATE_HEADER: record.state.value,
            },
        )

    @router.post("/tasks/create", response_model=TaskDefinition, openapi_extra=_CREATION)
    @hot
    async def create_task(request: Request) -> Response:
        """Accept a task and return its definition with the ids it has now."""
        control_plane = resolve(request.path_params["deployment_name"])
        task, key = await _read_task(request, control_plane)
        created = await control_plane.create_task(
            task, session_id=task.session_id, honour_task_id=False, idempotency_key=key
        )
        return JSONResponse(
            {
                "input": task.input,
                "task_id": created.task_id,
                "session_id": created.session_id,
                "service_id": task.service_id,
            }
        )


async def _read_task(
    request: Request, control_plane: ControlPlane
) -> tuple[TaskDefinition, str | None]:
    """The task with its service, and its session if one was named; and the idempotency key."""
    task = await read_body(request, TaskDefinition)
    task.service_id = await control_plane.choose_service(task.service_id)
    task.session_id = request.query_params.get("session_id") or task.session_id or None
    key = request.headers.get("idempotency-key")
    if key is not None and not key.strip():
        raise InvalidFieldError(("header", "Idempotency-Key"), "must not be blank")
    return task, key


def _add_listing(router: APIRouter, resolve: Resolve) -> None:
    @router.get("/task-statuses")
    async def list_task_statuses(
        deployment_name: str,
        session_id: SessionQuery = None,
        service: str | None = None,
        state: Annotated[list[TaskState] | None, Query()] = None,
        before: Annotated[str | None, Query(description="a task's id, for the next page")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
    ) -> list[TaskStatus]:
        """Where tasks stand, the newest first."""
        query = TaskQuery(
            session_id=session_id,
            service=service,
            states=tuple(state or ()),
            before=before,
            limit=limit,
        )
        return await resolve(deployment_name).find_tasks(query)


def _add_tasks(router: APIRouter, resolve: Resolve) -> None:
    @router.get("/tasks")
    async def list_tasks(deployment_name: str) -> list[TaskDefinition]:
        """The definitions of all tasks that are kept, oldest first."""
        return await resolve(deployment_name).list_tasks()

    @router.post("/tasks/{task_id}/events")
    async def send_event(
        response: Response,
        deployment_name: str,
        task_id: str,
        event: EventDefinition,
        session_id: SessionQuery = None,
    ) -> EventDefinition:
        """Send an event to a task, whether or not it has started. A finished task ignores it."""
        control_plane = resolve(deployment_name)
        session = await control_plane.session_of(task_id, session_id)
        outcome = await control_plane.send_event(session, task_id, event)
        response.headers[TASK_STATE_HEADER] = outcome.state.value
        return event

    @router.get("/tasks/{task_id}/events", response_class=StreamingResponse)
    async def stream_events(
        request: Request,
        deployment_name: str,
        task_id: str,
        session_id: SessionQuery = None,
        after: Sequence = 0,
        format: StreamFormat = StreamFormat.LEGACY,
        follow: bool = True,
    ) -> Response:
        """The task's events from the first (or ``after``) on, one line each, until its end; without
        ``follow`` those that are there."""
        control_plane = resolve(deployment_name)
        await control_plane.session_of(task_id, session_id)
        return await stream_response(
            request, control_plane, task_id, after=after, style=format, follow=follow
        )

    @router.get("/tasks/{task_id}/results", response_model=None)
    async def get_result(
        request: Request,
        deployment_name: str,
        task_id: str,
        session_id: SessionQuery = None,
        wait: Wait = 0.0,
    ) -> TaskResult | Response | None:
        """The result, or null when there is none within ``wait`` seconds."""
        control_plane = resolve(deployment_name)
        session = await control_plane.session_of(task_id, session_id)
        return await result_reply(request, control_plane, session, task_id, wait)

    @router.get("/tasks/{task_id}")
    async def get_status(
        deployment_name: str, task_id: str, session_id: SessionQuery = None
    ) -> TaskStatus:
        """Where a task stands."""
        control_plane = resolve(deployment_name)
        session = await control_plane.session_of(task_id, session_id)
        return await control_plane.status(session, task_id)

    @router.post("/tasks/{task_id}/cancel")
    async def cancel_task(
        deployment_name: str, task_id: str, session_id: SessionQuery = None
    ) -> CancelOutcome:
        """End the task unless it has finished; the reply says which of the two holds."""
        control_plane = resolve(deployment_name)
        session = await control_plane.session_of(task_id, session_id)
        return await control_plane.cancel(session, task_id)


def _add_sessions(router: APIRouter, resolve: Resolve) -> None:
    @router.get("/sessions")
    async def list_sessions(deployment_name: str) -> list[SessionDefinition]:
        """All sessions with their task ids and state."""
        return await resolve(deployment_name).list_sessions()

    @router.get("/sessions/{session_id}")
    async def get_session(deployment_name: str, session_id: str) -> SessionDefinition:
        """A session with its task ids and state."""
        return await resolve(deployment_name).get_session(session_id)

    @router.post("/sessions/create")
    async def create_session(deployment_name: str) -> SessionDefinition:
        """Make a session; its id is in the reply."""
        return SessionDefinition(session_id=await resolve(deployment_name).create_session())

    @router.post("/sessions/delete")
    async def delete_session(deployment_name: str, session_id: str) -> None:
        """Idempotent; what is unfinished in the session is cancelled."""
        await resolve(deployment_name).delete_session(session_id)


async def result_reply(
    request: Request, control_plane: ControlPlane, session_id: str, task_id: str, wait: float
) -> TaskResult | Response | None:
    """The task's result within ``wait`` seconds, given up when the client goes away."""
    wait = min(wait, MAX_WAIT_SECONDS)
    try:
        return await while_connected(request, control_plane.result(session_id, task_id, wait))
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
