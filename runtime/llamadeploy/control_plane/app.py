"""The HTTP application of one control plane."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from llamadeploy._version import __version__
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.control_plane.routes.auth import TokenMiddleware
from llamadeploy.control_plane.routes.dead_letters import dead_letters_router
from llamadeploy.control_plane.routes.deployments import deployments_router
from llamadeploy.control_plane.routes.errors import install_error_handlers
from llamadeploy.control_plane.routes.home import home_router, resolve_one, status_router
from llamadeploy.control_plane.routes.internal import internal_router
from llamadeploy.control_plane.routes.limits import BodyLimitMiddleware
from llamadeploy.control_plane.routes.operations import service_operations_router
from llamadeploy.control_plane.routes.providers import the_only
from llamadeploy.control_plane.routes.services import services_router
from llamadeploy.control_plane.routes.sessions import sessions_router
from llamadeploy.http.hot_routes import HotRoutes
from llamadeploy.http.protection import ProtectionMiddleware
from llamadeploy.http.serving import probe_routes
from llamadeploy.metrics.route import metrics_router
from llamadeploy.openapi import complete

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]


def control_plane_app(
    control_plane: ControlPlane, *, token: str | None = None, lifespan: Lifespan | None = None
) -> FastAPI:
    """LlamaDeploy 0.8.1's control plane routes and what was added, for clients and workers.

    Args:
        token: what every request but the probes must carry; ``None`` lets everybody in.
        lifespan: what to start and stop with the application.
    """
    app = FastAPI(title="LlamaDeploy control plane", version=__version__, lifespan=lifespan)
    install_error_handlers(app)
    internal = internal_router(control_plane)
    deployments = deployments_router(lambda name: resolve_one(control_plane, name))
    app.add_middleware(HotRoutes, routes=[*internal.routes, *deployments.routes])
    app.add_middleware(BodyLimitMiddleware)
    if token is not None:
        app.add_middleware(TokenMiddleware, token=token)
    if control_plane.config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=control_plane.config.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(
        ProtectionMiddleware,
        token=token is not None,
        allowed_origins=control_plane.config.cors_origins or (),
    )
    for router in (
        internal,
        deployments,
        sessions_router(control_plane),
        services_router(control_plane),
        home_router(control_plane),
        status_router(control_plane),
        dead_letters_router(the_only(control_plane)),
        service_operations_router(the_only(control_plane)),
        probe_routes(control_plane.obstacles, control_plane.queue_trouble),
        metrics_router(control_plane.metrics),
    ):
        app.include_router(router)
    complete(app, "control-plane")
    return app
