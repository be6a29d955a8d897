"""The metrics of an API server: those of all its deployments, and of their workers' processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamadeploy.api_server.backends.base import Backend, DeploymentState, DeploymentStatus
from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.metrics.deployment import PREFIX, Collect
from llamadeploy.metrics.exposition import scrape
from llamadeploy.metrics.instruments import Family, Kind

STATES_0_8_1 = {
    DeploymentState.STARTING: "starting_services",
    DeploymentState.READY: "running",
    DeploymentState.RELOADING: "running",
    DeploymentState.CHANGING: "running",
    DeploymentState.DEGRADED: "running",
    DeploymentState.FAILED: "stopped",
    DeploymentState.STOPPING: "stopped",
}
"""``deployment_state`` of LlamaDeploy 0.8.1, for dashboards that show it."""


def server_metrics(backend: Backend) -> Collect:
    """What a scrape of the server reads. A deployment that starts or ends is left out."""

    async def collect() -> list[Family]:
        per_deployment = await asyncio.gather(*(_of(backend, name) for name in backend.names()))
        statuses = backend.status()
        return [
            *(family for families in per_deployment for family in families),
            _restarts(statuses),
            _states(statuses),
        ]

    return collect


def metrics_app(collect: Collect) -> Starlette:
    """Metrics on every path, as 0.8.1's own metrics port serves them."""

    async def metrics(request: Request) -> Response:
        text, media_type = await scrape(collect, request.headers.get("accept", ""))
        return Response(text, media_type=media_type)

    return Starlette(routes=[Route("/{path:path}", metrics)])


async def _of(backend: Backend, name: str) -> list[Family]:
    try:
        return await backend.control_plane(name).metrics()
    except LlamaDeployError:
        return []


def _restarts(statuses: Sequence[DeploymentStatus]) -> Family:
    return Family(
        f"{PREFIX}worker_restarts",
        Kind.COUNTER,
        "Worker processes that were started again after they ended, since the last reload",
        ("deployment", "service", "replica"),
        [
            ((status.name, service, str(worker["name"])), float(worker["restarts"]))
            for status in statuses
            for service, worker in _workers(status)
        ],
    )


def _workers(status: DeploymentStatus) -> Iterator[tuple[str, dict[str, Any]]]:
    for service, details in status.details.get("services", {}).items():
        for worker in details["workers"]:
            yield service, worker


def _states(statuses: Sequence[DeploymentStatus]) -> Family:
    names = ("loading_services", "ready", "starting_services", "running", "stopped")
    return Family(
        "deployment_state",
        Kind.GAUGE,
        "State of a deployment as LlamaDeploy 0.8.1 names it",
        ("deployment_name", "deployment_state"),
        [
            ((status.name, name), float(STATES_0_8_1[status.state] == name))
            for status in statuses
            for name in names
        ],
    )
