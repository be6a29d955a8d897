"""``/ui/{name}/...``: the place of a deployment's user interface, which is not available yet."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def ui_router() -> APIRouter:
    """Answers 501 to everything, so that nobody takes it for a wrong path."""
    router = APIRouter(tags=["ui"])

    @router.api_route("/ui/{name}/{path:path}", methods=METHODS, include_in_schema=False)
    async def ui(name: str, path: str) -> None:
        raise HTTPException(501, "user interfaces of deployments are not available yet")

    return router
