from __future__ import annotations

import asyncio
import base64
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import yarl
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from llamadeploy.exceptions import ConfigurationError, DeploymentError
from llamadeploy.http.serving import HttpServer, TokenMiddleware, probe_routes


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def app_with(*routes: Route) -> Starlette:
    return Starlette(routes=[Route("/", hello), *routes])


async def test_a_free_port_is_known_and_serves() -> None:
    async with HttpServer(app_with()) as server, aiohttp.ClientSession() as http:
        assert server.port > 0
        async with http.get(server.url) as reply:
            assert await reply.text() == "hello" and "Date" in reply.headers
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


async def test_a_taken_port_is_a_clear_error_and_leaves_nothing() -> None:
    async with HttpServer(app_with()) as first:
        second = HttpServer(app_with(), port=first.port, setting="--port")
        with pytest.raises(ConfigurationError, match=rf"port {first.port} is in use.*--port"):
            await second.start()
        await second.stop()
    # The port can be had again at once.
    async with HttpServer(app_with(), port=first.port) as third:
        assert third.port == first.port


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "70000"),
        ("192.0.2.1", 0, "not an address of this machine"),
        ("no-such-host.invalid", 0, "cannot be resolved"),
    ],
)
async def test_bad_hosts_and_ports(host: str, port: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await HttpServer(app_with(), host, port).start()


async def test_clients_that_keep_connections_leave_with_a_reply() -> None:
    """Without that, some request is written into a connection that is just being closed."""
    server = HttpServer(app_with())
    await server.start()
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as http:
        async with http.get(server.url) as reply:
            assert await reply.text() == "hello" and "connection" not in reply.headers
        stopping = asyncio.create_task(server.stop(leave=60))
        await asyncio.sleep(0)  # the server has been told
        while "connection" not in reply.headers:  # each one is answered, the last one says go
            async with http.get(server.url) as reply:
                assert await reply.text() == "hello"
        assert reply.headers["connection"] == "close"
        await asyncio.wait_for(stopping, 30)  # at once, not after the 60 s
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(server.url)


async def test_signals_stay_with_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with HttpServer(app_with()):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_a_running_request_gets_its_grace() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> PlainTextResponse:
        entered.set()
        await leave.wait()
        return PlainTextResponse("done")

    server = HttpServer(app_with(Route("/slow", slow)))
    await server.start()
    async with aiohttp.ClientSession() as http:
        request = asyncio.create_task(http.get(server.url + "/slow"))
        await entered.wait()
        stopping = asyncio.create_task(server.stop(grace=30))
        await asyncio.wait({stopping}, timeout=0.05)
        assert not stopping.done()
        leave.set()
        reply = await request
        assert await reply.text() == "done"
        await asyncio.wait_for(stopping, 5)


async def test_an_endless_stream_is_cut_after_the_grace_and_reads_as_incomplete() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"{}\n"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(endless())

    server = HttpServer(app_with(Route("/stream", stream)))
    await server.start()
    async with aiohttp.ClientSession() as http, http.get(server.url + "/stream") as reply:
        assert await reply.content.readline() == b"{}\n"
        await asyncio.wait_for(server.stop(grace=0.05), 5)
        with pytest.raises(aiohttp.ClientError):
            await reply.content.readline()
    await asyncio.wait_for(ended.wait(), 1)


async def test_stop_twice_and_without_start() -> None:
    server = HttpServer(app_with())
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


async def test_a_failing_application_is_an_error_of_start() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise ValueError("no")
        yield

    with pytest.raises(DeploymentError, match="failed to start"):
        await HttpServer(FastAPI(lifespan=lifespan)).start()


async def test_probes() -> None:
    reasons: list[str] = []

    async def ready() -> list[str]:
        if "raise" in reasons:
            raise RuntimeError("hunter2")
        return reasons

    app = FastAPI()
    app.include_router(probe_routes(ready))
    async with HttpServer(app) as server, aiohttp.ClientSession(server.url) as http:
        for expected, names in [(200, []), (503, ["the store does not answer"]), (503, ["raise"])]:
            reasons[:] = names
            async with http.get("/readyz") as reply:
                body = await reply.text()
                assert reply.status == expected and "hunter2" not in body
                assert names == ["raise"] or all(name in body for name in names)
            async with http.get("/healthz") as reply:
                assert reply.status == 200


async def test_the_token_middleware_guards_all_but_the_exempt() -> None:
    async def ready() -> list[str]:
        return []

    app = FastAPI()
    app.include_router(probe_routes(ready))
    app.add_api_route("/secret", lambda: "s")
    app.add_middleware(TokenMiddleware, token="hunter2", exempt=("/healthz", "/readyz"))
    basic = "Basic " + base64.b64encode(b"x:hunter2").decode()
    cases = [("/healthz", "", 200), ("/readyz", "", 200), ("/secret", "", 401),
             ("/secret", "Bearer hunter2", 200), ("/secret", basic, 200),
             ("/secret", "Bearer hunter", 401), ("/secret/../healthz", "", 401)]  # fmt: skip
    async with HttpServer(app) as server, aiohttp.ClientSession(server.url) as http:
        for path, header, status in cases:
            url = server.url + path
            async with http.get(
                yarl.URL(url, encoded=True), headers={"Authorization": header} if header else {}
            ) as reply:
                assert reply.status == status, (path, header)
                assert status != 401 or reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_websockets_need_the_token_too() -> None:
    entered = False

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal entered
        entered = True

    sent = []

    async def send(event: Message) -> None:
        sent.append(event)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/", "headers": []}
    await TokenMiddleware(inner, "t")(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}] and not entered
    scope["headers"] = [(b"authorization", b"Bearer t")]
    await TokenMiddleware(inner, "t")(scope, receive, send)
    assert entered
