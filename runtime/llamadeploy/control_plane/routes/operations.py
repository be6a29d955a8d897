"""How services are, and stopping, restarting and scaling them, and what their workers write."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.control_plane.routes.capacity import RETRY_AFTER, CountedStream, capacity_of
from llamadeploy.control_plane.routes.providers import Provider
from llamadeploy.control_plane.routes.waiting import MAX_WAIT_SECONDS, while_connected
from llamadeploy.control_plane.worker_control import MAX_REPLICAS, LogLine
from llamadeploy.types import ServiceScaling, ServiceStatus

MAX_TAIL = 100_000
"""Lines; above what the log files of a few services hold."""


class ScaleRequest(BaseModel):
    """Body of ``scale``."""

    replicas: int = Field(ge=0, le=MAX_REPLICAS)


class EndRequest(BaseModel):
    """Body of ``end``; ``reason`` becomes the tasks' result."""

    reason: str = Field(min_length=1, max_length=500)


class RefuseRequest(BaseModel):
    """Body of ``refuse``; ``reason`` is what people are told who ask for a task."""

    reason: str = Field(min_length=1, max_length=500)


class EndReply(BaseModel):
    """How many tasks were ended."""

    ended: int


class LogFormat(StrEnum):
    """``?format=``: lines for people, or one JSON object per line."""

    TEXT = "text"
    JSON = "json"


def service_operations_router(provider: Provider) -> APIRouter:
    """Routes under ``/services/{service_name}``."""
    router = APIRouter(prefix="/services", tags=["Service operations"])

    @router.get("/{service_name}/scaling")
    async def get_scaling(
        request: Request,
        service_name: str,
        wait: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0,
        version: str = "",
        strict: bool = False,
        plane: ControlPlane = provider,
    ) -> ServiceScaling:
        """A service's unfinished work and its replicas, for autoscalers.

        With `wait` (seconds) the reply comes when the `version` of an earlier one does not hold any
        more, or after that time. With `strict` a `problem` is a 503, for those who look at one
        number alone. 503 also where the state store is away: nobody can know.
        """
        if wait and version:
            seconds = min(wait, MAX_WAIT_SECONDS)
            changed = plane.operations.scaling_changed(service_name, version, seconds)
            found = await while_connected(request, changed)
        else:
            found = await plane.operations.scaling(service_name)
        if strict and found.problem:
            raise HTTPException(503, found.problem, RETRY_AFTER)
        return found

    @router.post("/{service_name}/stop")
    async def stop_service(service_name: str, plane: ControlPlane = provider) -> None:
        """Drain and end its workers; its tasks queue until it is restarted. Idempotent."""
        await plane.operations.stop(service_name)

    @router.post("/{service_name}/restart")
    async def restart_service(service_name: str, plane: ControlPlane = provider) -> None:
        """Replace its workers, the new ones ready before the old ones drain; start a stopped one.
        Answers when that is done."""
        await plane.operations.restart(service_name)

    @router.post("/{service_name}/scale")
    async def scale_service(
        service_name: str, request: ScaleRequest, plane: ControlPlane = provider
    ) -> None:
        """Have that many replicas until the next reload. Answers when they are ready."""
        await plane.operations.scale(service_name, request.replicas)

    @router.post("/{service_name}/refuse")
    async def refuse_tasks(
        service_name: str, request: RefuseRequest, plane: ControlPlane = provider
    ) -> None:
        """Let the service take no new task: who asks gets a 404 with the reason, within two seconds
        everywhere. What it has ends as usual. It holds until `accept`, or until the service is
        registered anew. Idempotent."""
        await plane.refuse_service(service_name, request.reason)

    @router.post("/{service_name}/accept")
    async def accept_tasks(service_name: str, plane: ControlPlane = provider) -> None:
        """Undo `refuse`. Idempotent."""
        await plane.accept_service(service_name)

    @router.post("/{service_name}/end")
    async def end_service(
        service_name: str, request: EndRequest, plane: ControlPlane = provider
    ) -> EndReply:
        """Cancel all unfinished tasks of a service, which need not be known any more. It takes
        tasks as before: let it refuse them first where it is to end. Idempotent."""
        return EndReply(ended=await plane.end_service(service_name, request.reason))

    return router


def observation_router(provider: Provider) -> APIRouter:
    """``/services`` and ``/logs`` of a deployment."""
    router = APIRouter(tags=["Service operations"])

    @router.get("/services")
    async def list_services(plane: ControlPlane = provider) -> list[ServiceStatus]:
        """Every service with its workers and its unfinished work."""
        return await plane.operations.statuses()

    @router.get("/logs", response_class=StreamingResponse)
    async def get_logs(
        request: Request,
        service: str | None = None,
        tail: Annotated[int, Query(ge=0, le=MAX_TAIL)] = 100,
        follow: bool = False,
        format: LogFormat = LogFormat.TEXT,
        plane: ControlPlane = provider,
    ) -> CountedStream:
        """The last ``tail`` lines that workers wrote, then with ``follow`` what they write."""
        batches = await plane.operations.logs(service, tail=tail, follow=follow)
        json_lines = format is LogFormat.JSON
        return CountedStream(
            _encode(batches, json_lines),
            capacity=capacity_of(request),
            media_type="application/x-ndjson" if json_lines else "text/plain; charset=utf-8",
        )

    return router


async def _encode(batches: AsyncIterator[list[LogLine]], json_lines: bool) -> AsyncIterator[bytes]:
    write = _json_line if json_lines else _text_line
    async for lines in batches:
        if lines:
            yield "".join(map(write, lines)).encode("utf-8", "replace")
        elif json_lines:
            yield b"\n"  # keeps the connection; readers of ndjson skip blank lines


def _text_line(line: LogLine) -> str:
    at = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds")
    return f"{at.replace('+00:00', 'Z')} {line.replica} | {line.text}\n"


def _json_line(line: LogLine) -> str:
    fields = {
        "time": line.at, "service": line.service, "replica": line.replica, "text": line.text
    }  # fmt: skip
    return json.dumps(fields) + "\n"
