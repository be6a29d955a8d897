"""Hot routes answer as the router would: paths, methods, parameters, errors, middlewares."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from llamadeploy.control_plane.routes.errors import install_error_handlers
from llamadeploy.control_plane.routes.limits import BodyLimitMiddleware
from llamadeploy.exceptions import NotFoundError
from llamadeploy.http.hot_routes import HotRoutes, hot

ERRORS: dict[str, Exception] = {
    "not_found": NotFoundError("no such thing"),
    "http": HTTPException(418, "teapot", {"X-Tea": "1"}),
    "invalid": RequestValidationError([{"type": "t", "loc": ("body",), "msg": "m"}]),
    "bug": RuntimeError("a bug"),
}


def router() -> APIRouter:
    made = APIRouter(prefix="/things/{name}")

    @made.post("/hot")
    @hot
    async def hot_endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        if name in ERRORS:
            raise ERRORS[name]
        # Only a route that the router found has FastAPI's exit stack.
        short = "fastapi_inner_astack" not in request.scope
        body = (await request.body()).decode()
        return JSONResponse(
            {"name": name, "query": request.url.query, "body": body, "short": short}
        )

    @made.get("/hot")
    async def other_method(name: str) -> dict[str, Any]:
        return {"cold": name}

    return made


def application(with_hot_routes: bool) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    things = router()
    if with_hot_routes:
        app.add_middleware(HotRoutes, routes=things.routes)
    app.add_middleware(BodyLimitMiddleware, limit=100)
    app.include_router(things)
    return app


@pytest.fixture(params=[True, False], ids=["hot", "router"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(request.param), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.headers["x-hot"] = str(request.param)
        yield client


async def test_it_answers_like_the_router(http: httpx.AsyncClient) -> None:
    reply = await http.post("/things/a%20b/hot?x=1", content=b"text")
    assert reply.json() == {
        "name": "a b",
        "query": "x=1",
        "body": "text",
        "short": http.headers["x-hot"] == "True",
    }
    assert (await http.get("/things/a/hot")).json() == {"cold": "a"}
    for path in ("/things/a/b/hot", "/things//hot", "/things/a/hot2", "/x/things/a/hot"):
        assert (await http.post(path)).status_code == 404, path
    assert (await http.put("/things/a/hot")).status_code == 405
    assert (await http.post("/things/a/hot", content=b"x" * 101)).status_code == 413
    assert "/things/{name}/hot" in (await http.get("/openapi.json")).json()["paths"]


async def test_errors_go_to_the_applications_handlers(http: httpx.AsyncClient) -> None:
    replies = {name: await http.post(f"/things/{name}/hot") for name in ERRORS}
    assert {name: reply.status_code for name, reply in replies.items()} == {
        "not_found": 404,
        "http": 418,
        "invalid": 422,
        "bug": 500,
    }
    assert replies["not_found"].json() == {"detail": "no such thing"}
    assert replies["http"].headers["x-tea"] == "1"
    assert "a bug" not in replies["bug"].text
