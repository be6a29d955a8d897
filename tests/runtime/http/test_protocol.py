"""Heads of replies travel with their bodies, and never wait for one that comes later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llamadeploy.http.client import HttpClient
from llamadeploy.http.protocol import JoinedTransport
from llamadeploy.http.serving import HttpServer


class Writes:
    """A real transport that remembers what it was given."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.data: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.data.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[JoinedTransport, Writes, asyncio.StreamReader]]:
    """A joined transport, what it writes, and what the other side reads."""
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.put_nowait((reader, writer)), "127.0.0.1", 0
    )
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        asyncio.Protocol, *server.sockets[0].getsockname()[:2]
    )
    reader, writer = await accepted.get()
    writes = Writes(transport)
    yield JoinedTransport(writes, loop), writes, reader  # type: ignore[arg-type]
    transport.abort()
    writer.close()
    server.close()


async def test_head_and_body_are_one_write(pair) -> None:
    joined, writes, reader = pair
    joined.write(b"HTTP/1.1 200 OK\r\n\r\n")
    joined.write(b"body")
    joined.write(b"more")
    assert writes.data == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]
    assert await reader.readexactly(27) == b"HTTP/1.1 200 OK\r\n\r\nbodymore"


async def test_a_head_alone_goes_in_the_next_turn(pair) -> None:
    joined, writes, reader = pair
    joined.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert writes.data == []
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
    joined.write(b"later")
    assert writes.data == [b"HTTP/1.1 200 OK\r\n\r\n", b"later"]


async def test_closing_sends_the_head_and_aborting_does_not(pair) -> None:
    joined, writes, reader = pair
    joined.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    joined.close()
    assert joined.is_closing() and await reader.read() == b"HTTP/1.1 204 No Content\r\n\r\n"
    joined.write(b"HTTP/1.1 500 Late\r\n\r\n")
    joined.abort()
    await asyncio.sleep(0)
    assert len(writes.data) == 1


async def test_a_stream_that_begins_late() -> None:
    begin = asyncio.Event()

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            await begin.wait()
            yield b"first,"
            yield b"second"

        return StreamingResponse(parts())

    async def plain(request: Request) -> Response:
        return PlainTextResponse("plain")

    app = Starlette(routes=[Route("/stream", stream), Route("/plain", plain)])
    async with HttpServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        begin.set()
        body = await reader.readuntil(b"0\r\n\r\n")
        assert b"first," in body and b"second" in body
        writer.close()
        client = HttpClient(server.url)
        for _ in range(3):
            assert await client.request("GET", "/plain", timeout=5) == (200, b"plain")
        await client.aclose()
