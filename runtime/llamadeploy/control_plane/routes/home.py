"""What a control plane tells of itself, and messages that are posted to it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.exceptions import NotFoundError
from llamadeploy.messages import QueueMessage
from llamadeploy.types import DeploymentDefinition, Status, StatusEnum


def home_router(control_plane: ControlPlane) -> APIRouter:
    """``/``, ``/queue_config`` and ``/process_message``."""
    router = APIRouter(tags=["Control Plane"])

    @router.get("/")
    async def home() -> dict[str, str]:
        """Settings of the control plane, as texts."""
        config = control_plane.config
        return {
            "running": str(config.running),
            "step_interval": str(config.step_interval),
            "services_store_key": config.services_store_key,
            "tasks_store_key": config.tasks_store_key,
            "session_store_key": config.session_store_key,
        }

    @router.get("/queue_config", tags=["Message Queue"])
    async def get_queue_config() -> dict[str, Any]:
        """The queue's settings by the name of their class, without credentials."""
        config = control_plane.queue_config
        return {} if config is None else {type(config).__name__: config.public()}

    @router.post("/process_message")
    async def process_message(message: QueueMessage) -> None:
        """Act on a message as if it came from the message queue."""
        await control_plane.process_message(message)

    return router


def status_router(control_plane: ControlPlane) -> APIRouter:
    """What an API server tells, for this one deployment, so that its clients work here too."""
    router = APIRouter(tags=["Status"])

    @router.get("/status/")
    async def status() -> Status:
        """How this deployment is."""
        problems = await control_plane.problems()
        return Status(
            status=StatusEnum.UNHEALTHY if problems else StatusEnum.HEALTHY,
            status_message="; ".join(problems),
            max_deployments=1,
            deployments=[control_plane.name],
        )

    @router.get("/deployments/")
    async def list_deployments() -> list[DeploymentDefinition]:
        """The one deployment this control plane serves."""
        return [DeploymentDefinition(name=control_plane.name)]

    @router.get("/deployments/{deployment_name}")
    async def get_deployment(deployment_name: str) -> DeploymentDefinition:
        """Whether this control plane serves a deployment of that name."""
        resolve_one(control_plane, deployment_name)
        return DeploymentDefinition(name=deployment_name)

    return router


def resolve_one(control_plane: ControlPlane, name: str) -> ControlPlane:
    """The control plane if it is that deployment's. Raises NotFoundError."""
    if name != control_plane.name:
        raise NotFoundError("Deployment not found")
    return control_plane
