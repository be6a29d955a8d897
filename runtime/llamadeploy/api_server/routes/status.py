"""``GET /status/``: how the server and each of its deployments are."""

from __future__ import annotations

from fastapi import APIRouter, Response

from llamadeploy.api_server.backends.base import Backend, DeploymentState, DeploymentStatus
from llamadeploy.types import Status, StatusEnum


def status_router(backend: Backend) -> APIRouter:
    """Routes below ``/status``. They read memory only, so they answer while a deploy runs."""
    router = APIRouter(prefix="/status", tags=["status"])

    @router.get("/")
    async def status() -> Status:
        found = backend.status()
        unhealthy = [each for each in found if each.state is DeploymentState.DEGRADED]
        return Status(
            status=StatusEnum.UNHEALTHY if unhealthy else StatusEnum.HEALTHY,
            status_message="; ".join(filter(None, map(_message, found))),
            max_deployments=backend.max_deployments,
            deployments=backend.names(),
            details={each.name: _details(each) for each in found},
        )

    @router.get("/metrics")
    async def metrics() -> Response:
        """No metrics are collected: the reply that 0.8.1 gives when they are disabled."""
        return Response(status_code=204)

    return router


def _message(status: DeploymentStatus) -> str:
    """One line about a deployment that has a problem; the whole text is in the details."""
    first_line = status.problem.partition("\n")[0]
    return f"deployment '{status.name}' is {status.state.value}: {first_line}" if first_line else ""


def _details(status: DeploymentStatus) -> dict[str, object]:
    return {"state": status.state.value, "problem": status.problem, **status.details}
