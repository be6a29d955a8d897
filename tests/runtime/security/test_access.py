"""Who gets in: tokens on every route, refusals to listen without one, and foreign web pages."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount, Route
from yarl import URL

from llamadeploy import deploy_core
from llamadeploy.api_server.app import create_app
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.process import Address, serve
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.http.serving import HttpServer
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.settings import PodSettings

TOKEN = "s3cret-t\u00f6ken"
OPEN = {"/healthz", "/readyz", "/metrics", "/status/metrics"}


class NoDeployments:
    """A backend in which nothing runs."""

    max_deployments = 10

    def names(self) -> list[str]:
        return []

    def status(self) -> list[Any]:
        return []

    async def problems(self) -> list[str]:
        return []

    def control_plane(self, name: str) -> Any:
        raise AssertionError("a request without the token came through")

    user_interface = control_plane


def routes_of(app: Any) -> Iterator[tuple[str, str]]:
    """Method and path of every route, also of mounted applications."""
    for prefix, route in _all(app.routes):
        if isinstance(route, Mount):
            yield from ((method, f"{route.path}/x/y") for method in ("GET", "POST", "DELETE"))
        elif isinstance(route, Route | APIRoute):
            path = prefix + route.path
            while "{" in path:
                start, end = path.index("{"), path.index("}")
                path = f"{path[:start]}1{path[end + 1 :]}"
            yield from ((method, path) for method in route.methods or ())


def _all(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, BaseRoute]]:
    for route in routes:
        inner = getattr(route, "original_router", None)  # FastAPI's included routers
        if inner is None:
            yield prefix, route
        else:
            yield from _all(inner.routes, prefix + route.include_context.prefix)  # type: ignore[attr-defined]


async def _check_every_route(app: Any, expected: int) -> None:
    """Without the token each route is 401 but the open ones; with it none is."""
    found = sorted(set(routes_of(app)))
    assert len(found) >= expected, found
    good = {"Authorization": "Basic " + base64.b64encode(f"x:{TOKEN}".encode()).decode()}
    async with HttpServer(app) as server, aiohttp.ClientSession(server.url) as http:
        for method, path in found:
            async with http.request(method, path, allow_redirects=False) as response:
                if path in OPEN:
                    assert response.status in (200, 204, 405), (method, path, response.status)
                    continue
                assert response.status == 401, (method, path, response.status)
                assert "Bearer" in response.headers["WWW-Authenticate"]
        for path in ("//status/", "/STATUS/", "/metrics/", "/healthz/../status/", "/%2e/status/"):
            async with http.get(URL(server.url + path, encoded=True)) as response:
                assert response.status == 401, path
        async with http.get("/openapi.json", headers=good) as response:
            assert response.status == 200


async def test_every_route_of_the_api_server_asks_for_the_token() -> None:
    await _check_every_route(create_app(NoDeployments(), token=TOKEN), 20)  # type: ignore[arg-type]


async def test_every_route_of_a_control_plane_asks_for_the_token(open_plane: Any) -> None:
    async with open_plane(token=TOKEN) as plane:
        await _check_every_route(plane.app, 40)


async def test_every_route_of_the_simple_queue_asks_for_the_token() -> None:
    await _check_every_route(SimpleMessageQueueServer(token=TOKEN).app, 10)


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Bearer x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
        f"Token {TOKEN}", TOKEN, "Basic", "Basic %%%", "Basic " + "A" * 1000,
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        "Basic " + base64.b64encode(f"{TOKEN}:x".encode()).decode(),
    ],
)  # fmt: skip
async def test_near_misses_of_the_token_do_not_pass(open_plane: Any, header: str) -> None:
    async with open_plane(token=TOKEN) as plane:
        headers = {"Authorization": header}
        await plane.get("/sessions", 401, headers=headers)
        await plane.post("/internal/v1/execute", [], 401, headers=headers)
        await plane.get("/sessions", headers={"Authorization": f"Bearer {TOKEN}"})


# -- listening without a token ---------------------------------------------------------------------


async def test_no_entry_point_listens_beyond_loopback_without_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LLAMA_DEPLOY_TOKEN", "LLAMA_DEPLOY_INSECURE_NO_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    beyond: dict[str, Any] = {"host": "0.0.0.0", "port": 0}
    near: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
    attempts = {
        "control-plane": serve(PodSettings(), Address("0.0.0.0", 0, 0), stop=asyncio.Event()),
        "queue": SimpleMessageQueueServer(SimpleMessageQueueConfig(**beyond)).launch_server(),
        "core": deploy_core(ControlPlaneConfig(**beyond), SimpleMessageQueueConfig(**near)),
        "core's queue": deploy_core(ControlPlaneConfig(**near), SimpleMessageQueueConfig(**beyond)),
    }
    for name, attempt in attempts.items():
        with pytest.raises(ConfigurationError, match="lets others in without a token"):
            await asyncio.wait_for(attempt, 10)
        assert name


async def test_deploy_core_takes_the_token_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, wait_until: Any, capfd: Any
) -> None:
    monkeypatch.setenv("LLAMA_DEPLOY_TOKEN", TOKEN)
    with socket_on_a_free_port() as port:
        pass
    config = ControlPlaneConfig(host="0.0.0.0", port=port)
    core = asyncio.create_task(deploy_core(config, SimpleMessageQueueConfig(port=0)))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

        async def status(**headers: str) -> int:
            try:
                async with http.get("/services", headers=headers) as response:
                    return response.status
            except aiohttp.ClientConnectionError:
                return 0

        await wait_until(lambda: _is(status(), 401))
        assert await status(Authorization=f"Bearer {TOKEN}") == 200
    core.cancel()
    await asyncio.gather(core, return_exceptions=True)


async def _is(status: Any, expected: int) -> bool:
    return bool(await status == expected)


def socket_on_a_free_port() -> Any:
    import contextlib
    import socket

    @contextlib.contextmanager
    def free() -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener.getsockname()[1]

    return free()


async def test_the_control_planes_command_refuses_and_obeys() -> None:
    command = [sys.executable, "-m", "llamadeploy", "control-plane"]
    environ = {"PATH": os.environ["PATH"]}
    child = await asyncio.create_subprocess_exec(
        *command, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 1
    assert "set LLAMADEPLOY_API_TOKEN (or add --insecure-no-token)" in error.decode()


# -- browsers --------------------------------------------------------------------------------------

EVIL = {"Origin": "https://evil.example"}


@pytest.mark.parametrize(
    "headers",
    [
        EVIL,
        {"Origin": "null"},
        {"Origin": "http://evil.example:4501"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://[::"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_foreign_web_page_cannot_deploy_code(
    server: Any, project: Any, headers: dict[str, str]
) -> None:
    """A multipart POST needs no permission of ours: the browser sends it, and code would run."""
    server.headers = headers
    try:
        reply = server.create(server.deployment("evil", "echo"), project)
    finally:
        server.headers = {}
    assert reply.status == 403 and "may not call this server" in reply.detail
    assert server.get("/deployments/").body == []


def test_our_own_pages_and_programs_may_call(server: Any) -> None:
    for headers in (
        {},
        {"Origin": server.url},
        {"Origin": "http://localhost:3000"},  # a front end that is being developed
        {"Origin": server.url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        reply = server.post("/deployments/nobody/sessions/create", headers=headers)
        assert reply.status == 404, (headers, reply)
    assert server.get("/status/", headers=EVIL).status == 200, "it cannot read the answer"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403), ("evil.example:4501", 403), ("127.0.0.1.nip.io", 403),
        ("localhost", 200), ("127.0.0.1:80", 200), ("[::1]:80", 200), ("x.localhost", 200),
        ("host.docker.internal:4501", 200), ("my-laptop.local", 200), ("laptop", 200),
    ],
)  # fmt: skip
def test_a_name_that_anybody_may_register_is_refused_without_a_token(
    server: Any, raw: Any, host: str, status: int
) -> None:
    """DNS rebinding: a page of evil.example whose name then points to 127.0.0.1."""
    head = f"GET /status/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    got, answer = raw(server.url, head.encode())
    assert got == status, answer
    assert status == 200 or b"is not one of this machine's" in answer


async def test_with_a_token_any_name_will_do(open_plane: Any) -> None:
    async with open_plane(token=TOKEN) as plane:
        headers = {"Host": "llamadeploy.example.org", "Authorization": f"Bearer {TOKEN}"}
        await plane.get("/sessions", headers=headers)


async def test_configured_origins_may_call_a_control_plane(open_plane: Any) -> None:
    config = ControlPlaneConfig(cors_origins=["https://app.example.org"])
    async with open_plane(config=config) as plane:
        await plane.post("/sessions/create", headers={"Origin": "https://app.example.org"})
        await plane.post("/sessions/create", expect=403, headers=EVIL)


async def test_no_page_takes_messages_from_the_queue() -> None:
    queue = SimpleMessageQueueServer(SimpleMessageQueueConfig(port=0))
    async with HttpServer(queue.app) as server, aiohttp.ClientSession(server.url) as http:
        async with http.post("/topics/t"):
            pass
        async with http.post("/messages/t", json={"id_": "1"}):
            pass
        async with http.get("/messages/t", headers={"Sec-Fetch-Site": "cross-site"}) as reply:
            assert reply.status == 403
        async with http.get("/messages/t/depth") as reply:
            assert (await reply.json())["depth"] == 1


# -- headers of replies ----------------------------------------------------------------------------


def test_replies_carry_sane_headers(server: Any) -> None:
    for path, status in (("/status/", 200), ("/nowhere", 404), ("/status/metrics", 200)):
        headers = server.get(path, headers={"X-Request-Id": "abc-1"}).headers
        assert server.get(path).status == status
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"] == "abc-1"
        assert "server" not in headers and "x-powered-by" not in headers


def test_a_strange_request_id_is_replaced(server: Any) -> None:
    for strange in ("x" * 200, "a b", "<script>", 'a"b'):
        given = server.get("/status/", headers={"X-Request-Id": strange}).headers["x-request-id"]
        assert given != strange and len(given) == 32
    ids = {server.get("/status/").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_user_interfaces_set_headers_of_their_own(server: Any) -> None:
    headers = server.get("/ui/nobody/").headers
    assert "x-frame-options" not in headers and "x-request-id" in headers
