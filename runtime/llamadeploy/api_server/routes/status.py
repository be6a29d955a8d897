"""``GET /status/``: how the server and each of its deployments are."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from llamadeploy.api_server.backends.base import Backend, DeploymentState, DeploymentStatus
from llamadeploy.metrics.deployment import Collect
from llamadeploy.metrics.exposition import scrape
from llamadeploy.metrics.route import PROMETHEUS_TEXT
from llamadeploy.types import Status, StatusEnum

DISABLED = {"description": "Metrics are disabled"}


def status_router(backend: Backend, collect: Collect | None = None) -> APIRouter:
    """Routes below ``/status``. They read memory only, so they answer while a deploy runs.

    Args:
        collect: what ``/status/metrics`` tells; ``None``: metrics are disabled.
    """
    router = APIRouter(prefix="/status", tags=["status"])

    @router.get("/")
    async def status() -> Status:
        """How the server and each deployment are. Reads memory only, so it answers at any time."""
        found = backend.status()
        unhealthy = [each for each in found if each.state is DeploymentState.DEGRADED]
        return Status(
            status=StatusEnum.UNHEALTHY if unhealthy else StatusEnum.HEALTHY,
            status_message="; ".join(filter(None, map(_message, found))),
            max_deployments=backend.max_deployments,
            deployments=backend.names(),
            details={each.name: _details(each) for each in found},
        )

    @router.get(
        "/metrics", response_class=Response, responses={200: PROMETHEUS_TEXT, 204: DISABLED}
    )
    async def metrics(request: Request) -> Response:
        """What docs/metrics.md lists, of all deployments, for Prometheus. Needs no token."""
        if collect is None:
            return Response(status_code=204)
        text, media_type = await scrape(collect, request.headers.get("accept", ""))
        return Response(text, media_type=media_type)

    return router


def _message(status: DeploymentStatus) -> str:
    """One line about a deployment that has a problem; the whole text is in the details."""
    first_line = status.problem.partition("\n")[0]
    return f"deployment '{status.name}' is {status.state.value}: {first_line}" if first_line else ""


def _details(status: DeploymentStatus) -> dict[str, object]:
    return {"state": status.state.value, "problem": status.problem, **status.details}
