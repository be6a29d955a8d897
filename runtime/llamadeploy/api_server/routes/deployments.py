"""``/deployments``: list, look up, create, reload and delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, HTTPException, Query, UploadFile

from llamadeploy.api_server.backends.base import Backend, DeployRequest
from llamadeploy.exceptions import NotFoundError
from llamadeploy.types import DeploymentDefinition

MAX_FILE_BYTES = 8 * 1024 * 1024
"""Of a deployment file; each ConfigMap in it holds up to 1 MiB, as in Kubernetes."""

MAX_DRAIN_SECONDS = 3600.0
"""An hour; whoever can wait longer stops the services first."""


def admin_router(backend: Backend) -> APIRouter:
    """The routes that make, find and end deployments."""
    router = APIRouter(prefix="/deployments", tags=["deployments"])

    @router.get("/")
    async def list_deployments() -> list[DeploymentDefinition]:
        """The deployments that take tasks, in the order they were made."""
        return [DeploymentDefinition(name=name) for name in backend.names()]

    @router.get("/{name}")
    async def get_deployment(name: str) -> DeploymentDefinition:
        """Whether there is a deployment of that name."""
        if name not in backend.names():
            raise NotFoundError("Deployment not found")
        return DeploymentDefinition(name=name)

    @router.post("/create")
    async def create_deployment(
        config_file: Annotated[UploadFile, File(description="the deployment file")],
        base_path: Annotated[str, Query(description="the folder of its relative paths")] = ".",
        reload: bool = False,
        local: bool = False,
    ) -> DeploymentDefinition:
        """Answer once every service is ready to take tasks.

        ``local`` asked 0.8.1 to run the code in place; here code is always copied first.
        """
        request = DeployRequest(
            text=await _text(config_file),
            base_path=_folder(base_path),
            file=_shown(config_file.filename),
            reload=reload,
        )
        return DeploymentDefinition(name=await backend.deploy(request))

    @router.delete("/{name}")
    async def delete_deployment(
        name: str, drain: Annotated[float | None, Query(ge=0, le=MAX_DRAIN_SECONDS)] = None
    ) -> None:
        """Stop it and remove its records and its work directory.

        It takes no more tasks; running ones get ``drain`` seconds to end (by default as many as at
        the server's end). What is unfinished then is cancelled, and whoever waits for it is told.
        """
        await backend.delete(name, drain)

    return router


async def _text(config_file: UploadFile) -> str:
    if (config_file.size or 0) > MAX_FILE_BYTES:
        detail = f"config_file: it is larger than {MAX_FILE_BYTES // 2**20} MiB; send less"
        raise HTTPException(413, detail)
    try:
        return (await config_file.read()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        detail = f"config_file: byte {error.start} is not UTF-8; save the file as UTF-8 text"
        raise HTTPException(400, detail) from None


def _folder(base_path: str) -> Path:
    if "\0" in base_path:
        raise HTTPException(400, "base_path: it contains a NUL character; give a folder's path")
    return Path(base_path).expanduser()


def _shown(filename: str | None) -> str | None:
    """The file's own name, cut to what fits into a message."""
    if not filename or not filename.isprintable():
        return None
    return Path(filename).name[:100] or None
