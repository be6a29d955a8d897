"""A short way to the few endpoints that every task passes.

FastAPI and Starlette look for the route among all others and wrap each request in several layers;
for an endpoint that takes the bare request this costs more than the endpoint itself. The routes
stay where they are, so that documentation and every other method work as before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
E = TypeVar("E", bound=Endpoint)

_MARK = "llamadeploy_hot"


def hot(endpoint: E) -> E:
    """Mark an endpoint ``async (Request) -> Response`` for :class:`HotRoutes`."""
    setattr(endpoint, _MARK, True)
    return endpoint


class HotRoutes:
    """ASGI middleware that calls marked endpoints itself. Add it before (so, inside of) the
    application's other middlewares: they count for these requests too.

    Args:
        routes: those of them whose endpoint is marked are taken.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = [
            (method, route)
            for route in routes
            if isinstance(route, Route) and getattr(route.endpoint, _MARK, False)
            for method in route.methods or ()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Where it is mounted the path has parts that are not ours: the router knows them.
        if scope["type"] == "http" and not scope.get("root_path"):
            path, method = scope["path"], scope["method"]
            for hot_method, route in self._routes:
                if method == hot_method and (match := route.path_regex.match(path)):
                    scope["path_params"] = match.groupdict()
                    await _call(route.endpoint, scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _call(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive, send)
    try:
        response = await endpoint(request)
    except Exception as error:
        handler = _handler(scope, error)
        if handler is None:
            raise
        response = await handler(request, error)  # type: ignore[arg-type, misc]
    await response(scope, receive, send)


def _handler(scope: Scope, error: Exception) -> ExceptionHandler | None:
    handlers = scope["app"].exception_handlers
    for cls in type(error).__mro__[:-2]:  # Exception's own is for the outermost layer
        if cls in handlers:
            found: ExceptionHandler = handlers[cls]
            return found
    return None
