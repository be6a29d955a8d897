"""Where a route's control plane comes from: one router then serves one deployment or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends

from llamadeploy.control_plane.control_plane import ControlPlane

Resolve = Callable[[str], ControlPlane]
Provider = Any
"""A FastAPI dependency, to be the default of a parameter ``plane: ControlPlane``."""


def the_only(control_plane: ControlPlane) -> Provider:
    """Always this one."""

    # async: FastAPI would run a plain function on a thread, for every request.
    async def provide() -> ControlPlane:
        return control_plane

    return Depends(provide)


def by_path(resolve: Resolve) -> Provider:
    """The one of ``{deployment_name}``; ``resolve`` raises NotFoundError."""

    async def provide(deployment_name: str) -> ControlPlane:
        return resolve(deployment_name)

    return Depends(provide)
