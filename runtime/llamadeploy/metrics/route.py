"""``GET /metrics`` of an application."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from llamadeploy.metrics.deployment import Collect
from llamadeploy.metrics.exposition import scrape

PROMETHEUS_TEXT = {
    "description": "Prometheus text, or OpenMetrics where `Accept` asks for it",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


def metrics_router(collect: Collect) -> APIRouter:
    """The route alone; it needs no token."""
    router = APIRouter(tags=["Metrics"])

    @router.get("/metrics", response_class=Response, responses={200: PROMETHEUS_TEXT})
    async def metrics(request: Request) -> Response:
        """What docs/metrics.md lists, for Prometheus. Needs no token."""
        text, media_type = await scrape(collect, request.headers.get("accept", ""))
        return Response(text, media_type=media_type)

    return router
