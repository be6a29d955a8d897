"""The API server's application: routes over one backend, behind one token."""

from __future__ import annotations

from fastapi import FastAPI, Request

from llamadeploy._version import __version__
from llamadeploy.api_server.backends.base import Backend
from llamadeploy.api_server.metrics import server_metrics
from llamadeploy.api_server.routes.deployments import admin_router
from llamadeploy.api_server.routes.status import status_router
from llamadeploy.api_server.routes.ui import ui_proxy
from llamadeploy.control_plane.routes.auth import TokenMiddleware
from llamadeploy.control_plane.routes.deployments import deployments_router
from llamadeploy.control_plane.routes.errors import install_error_handlers
from llamadeploy.control_plane.routes.limits import BodyLimitMiddleware
from llamadeploy.http.hot_routes import HotRoutes
from llamadeploy.http.protection import ProtectionMiddleware
from llamadeploy.http.serving import probe_routes
from llamadeploy.metrics.route import metrics_router
from llamadeploy.openapi import complete


def create_app(backend: Backend, *, token: str | None = None, metrics: bool = True) -> FastAPI:
    """Every row of the API server's wire contract.

    Args:
        token: what clients must send, the documentation's readers too; ``None``: open. Probes
            need none.
        metrics: serve them; they need no token either.
    """
    app = FastAPI(title="LlamaDeploy API server", version=__version__)
    deployments = deployments_router(backend.control_plane)
    app.add_middleware(HotRoutes, routes=deployments.routes)
    app.add_middleware(BodyLimitMiddleware, streamed=("/ui/",))
    if token is not None:
        app.add_middleware(TokenMiddleware, token=token)
    app.add_middleware(ProtectionMiddleware, token=token is not None)
    install_error_handlers(app)
    app.include_router(probe_routes(backend.problems))

    @app.get("/")
    async def root(request: Request) -> dict[str, str]:
        """Where the documentation and the status are."""
        return {
            "swagger_docs": f"{request.base_url}docs",
            "status": f"{request.base_url}status",
        }

    collect = server_metrics(backend) if metrics else None
    app.include_router(status_router(backend, collect))
    if collect is not None:
        app.include_router(metrics_router(collect))
    app.include_router(admin_router(backend))
    app.include_router(deployments)
    app.mount("/ui", ui_proxy(backend, token=token))
    complete(app, "api-server")
    return app
