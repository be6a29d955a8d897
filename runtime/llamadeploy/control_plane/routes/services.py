"""Services, as LlamaDeploy 0.8.1's control plane serves them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.types import ServiceDefinition


def services_router(control_plane: ControlPlane) -> APIRouter:
    """Routes under ``/services``."""
    router = APIRouter(prefix="/services", tags=["Services"])

    @router.post("/register")
    async def register_service(service_def: ServiceDefinition) -> dict[str, Any]:
        """Keep a service's definition; the reply is the control plane's configuration."""
        return (await control_plane.register_service(service_def)).public()

    @router.post("/deregister")
    async def deregister_service(service_name: str) -> None:
        """Idempotent."""
        await control_plane.deregister_service(service_name)

    @router.get("")
    async def list_services() -> dict[str, ServiceDefinition]:
        """Registered and declared services by their names."""
        return await control_plane.list_services()

    @router.get("/{service_name}")
    async def get_service(service_name: str) -> ServiceDefinition:
        """A service's definition."""
        return await control_plane.get_service(service_name)

    return router
