"""The lean HTTP client: kept connections, repeats, time-outs, replies that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.http.client import HttpClient, HttpConnectionError
from llamadeploy.http.serving import HttpServer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Requests:
    """An application that remembers what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes, int]] = []
        self.app = Starlette(
            routes=[
                Route("/base/echo", self.echo, methods=["GET", "POST", "DELETE"]),
                Route("/base/chunked", self.chunked),
                Route("/base/never", self.never),
            ]
        )

    async def echo(self, request: Request) -> Response:
        assert request.client is not None
        body = await request.body()
        self.seen.append(
            (request.method, request.url.query, dict(request.headers), body, request.client.port)
        )
        return PlainTextResponse(body or b"nothing", status_code=int(request.query_params["s"]))

    async def chunked(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(50):
                yield b"%d," % number * 1000

        return StreamingResponse(parts())

    async def never(self, request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """A TCP server that answers as ``handler`` likes; its URL."""
    ended: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.add(writer)
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in ended:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def test_requests_share_kept_connections() -> None:
    requests = Requests()
    async with HttpServer(requests.app) as server:
        client = HttpClient(f"{server.url}/base/", {"Authorization": "Bearer t"})
        assert await client.request("GET", "/echo?s=200", timeout=5) == (200, b"nothing")
        assert await client.request("POST", "/echo?s=404", b'{"a":1}', timeout=5) == (
            404,
            b'{"a":1}',
        )
        assert (await client.request("DELETE", "/echo?s=200", timeout=5)).status == 200
        await asyncio.gather(
            *[client.request("POST", "/echo?s=200", b"1" * 2**20, timeout=5) for _ in range(3)]
        )
        await client.aclose()
    methods, queries, headers, bodies, ports = zip(*requests.seen, strict=True)
    assert methods == ("GET", "POST", "DELETE", "POST", "POST", "POST") and queries[1] == "s=404"
    assert bodies[1] == b'{"a":1}' and {len(body) for body in bodies[3:]} == {2**20}
    assert headers[0]["host"] == server.url.removeprefix("http://")
    assert headers[0]["authorization"] == "Bearer t" and "content-type" not in headers[0]
    assert headers[1]["content-type"] == "application/json"
    assert len(set(ports[:3])) == 1 and len(set(ports)) == 3


async def test_a_connection_is_used_again_before_its_first_user_woke_up() -> None:
    requests = Requests()
    async with HttpServer(requests.app) as server:
        client = HttpClient(f"{server.url}/base")

        async def many(number: int) -> None:
            for _ in range(20):
                body = str(number).encode()
                assert (await client.request("POST", "/echo?s=200", body, timeout=5)).body == body

        await asyncio.gather(*[many(number) for number in range(10)])
        await client.aclose()
    assert len(requests.seen) == 200 and len({port for *_, port in requests.seen}) <= 10


async def test_a_chunked_reply_is_put_together() -> None:
    async with HttpServer(Requests().app) as server:
        client = HttpClient(server.url)
        reply = await client.request("GET", "/base/chunked", timeout=5)
        assert reply.body == b"".join(b"%d," % number * 1000 for number in range(50))
        await client.aclose()


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    heads: list[bytes] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await _head(reader))
        writer.write(OK)
        heads.append(await _head(reader))  # and closes without an answer

    async with raw_server(once) as url:
        client = HttpClient(url)
        for _ in range(3):
            assert await client.request("GET", "/x", timeout=5) == (200, b"ok")
        await client.aclose()
    assert len(heads) == 5


async def test_connection_close_and_informational_replies() -> None:
    connections = 0

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await _head(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await _head(reader)

    async with raw_server(closing) as url:
        client = HttpClient(url)
        for _ in range(2):
            assert await client.request("GET", "/x", timeout=5) == (200, b"ok")
        await client.aclose()
    assert connections == 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not HTTP"),
    ],
)
async def test_what_is_no_reply(answer: bytes, problem: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader)
        writer.write(answer)
        await writer.drain()

    async with raw_server(handler) as url:
        client = HttpClient(url)
        with pytest.raises(HttpConnectionError, match=problem):
            await client.request("GET", "/x", timeout=5)
        await client.aclose()


async def test_nobody_listens() -> None:
    async with raw_server(_nothing) as url:
        pass
    with pytest.raises(HttpConnectionError, match=r"(?i)refused|connect"):
        await HttpClient(url).request("GET", "/", timeout=5)


async def _nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def test_a_late_reply_is_not_taken_for_the_next_one() -> None:
    requests = Requests()
    async with HttpServer(requests.app) as server:
        client = HttpClient(f"{server.url}/base")
        with pytest.raises(TimeoutError):
            await client.request("GET", "/never", timeout=0.05)
        waiting = asyncio.create_task(client.request("GET", "/never", timeout=5))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await client.request("GET", "/echo?s=200", timeout=5) == (200, b"nothing")
        await client.aclose()


async def test_closing_ends_what_is_on_its_way() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader)
        writer.write(OK)
        await _head(reader)
        asked.set()
        await reader.read()

    async with raw_server(silent) as url:
        client = HttpClient(url)
        await client.request("GET", "/", timeout=5)
        waiting = asyncio.create_task(client.request("GET", "/", timeout=5))
        await asked.wait()
        await client.aclose()
        with pytest.raises(HttpConnectionError):
            await waiting


@pytest.mark.parametrize(
    ("url", "headers", "problem"),
    [
        ("ftp://host:1", {}, "http://HOST:PORT"),
        ("http://host:port", {}, "Port could not be cast"),
        ("http://user:secret@host:1", {}, "no user name"),
        ("http://host:1", {"X-A": "b\r\nc"}, "line break"),
        ("http://host:1", {"content-length": "1"}, "sets it itself"),
    ],
)
def test_wrong_settings(url: str, headers: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        HttpClient(url, headers)
    assert "secret" not in str(caught.value)


async def test_a_path_must_be_quoted() -> None:
    client = HttpClient("http://127.0.0.1:9")
    for path in ("/a b", "/ä", "/a\r\nX: y"):
        with pytest.raises(ValueError, match="not quoted"):
            await client.request("GET", path, timeout=1)
