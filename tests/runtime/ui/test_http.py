"""HTTP through ``/ui/<deployment>/``: two front ends at once, streams, headers, errors."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]


async def test_two_front_ends_at_once(fronts: Any) -> None:
    one, two = await asyncio.gather(fronts.hello("one"), fronts.hello("two"))
    assert (one["deployment"], one["greeting"]) == ("one", "hello from one")
    assert (two["deployment"], two["greeting"]) == ("two", "hello from two")
    assert one["port"] != two["port"]
    assert one["folder"] != two["folder"]


async def test_the_users_folder_is_not_touched(fronts: Any) -> None:
    hello = await fronts.hello("one")
    assert not Path(hello["folder"]).is_relative_to(fronts.project)
    found = sorted(each.name for each in (fronts.project / "frontend").iterdir())
    assert found == ["package.json", "server.mjs", "socket.mjs"]


@pytest.mark.parametrize("method", METHODS)
async def test_methods_and_bodies(fronts: Any, method: str) -> None:
    async with fronts.http.request(method, "/ui/one/hello") as reply:
        assert (reply.status, (await reply.json())["method"]) == (200, method)
    async with fronts.http.request(method, "/ui/one/echo", data=b"some\x00body") as reply:
        assert await reply.read() == b"some\x00body"


async def test_head_has_the_headers_alone(fronts: Any) -> None:
    async with fronts.http.head("/ui/one/hello") as reply:
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        assert await reply.read() == b""


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
async def test_other_protocols_are_refused(fronts: Any, method: str) -> None:
    async with fronts.http.request(method, "/ui/one/hello") as reply:
        assert reply.status in (400, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/ui/one/hello",
        "/ui/one/hello/a%2Fb/%C3%A9/%20+?q=%26&q=a+b&empty=&x",
        "/ui/one/hello//double//?",
        "/ui/one/hello/@vite/client:1;v=(2)!$',~",
    ],
)
async def test_path_and_query_are_kept_as_they_are(fronts: Any, path: str) -> None:
    async with fronts.http.get(yarl.URL(fronts.url + path, encoded=True)) as reply:
        assert (await reply.json())["url"] == path.removesuffix("?")


async def test_the_base_path_itself(fronts: Any) -> None:
    for path in ("/ui/one", "/ui/one/"):
        status, body = await fronts.get(path)
        assert (status, body) == (404, {"nothing_at": path})


async def test_request_headers(fronts: Any) -> None:
    headers = {
        "Connection": "keep-alive, X-Private",
        "X-Private": "for the proxy alone",
        "TE": "trailers",
        "Upgrade-Insecure-Requests": "1",
        "Authorization": "Bearer of-the-front-end",
        "Cookie": "a=1; b=2",
        "X-Forwarded-For": "203.0.113.7",
        "Accept-Encoding": "br",
        "User-Agent": "me",
    }
    status, body = await fronts.get("/ui/one/hello", headers=headers)
    got = body["headers"]
    host = yarl.URL(fronts.url).authority
    assert status == 200
    assert {"x-private", "te"}.isdisjoint(got)
    assert got["host"] == got["x-forwarded-host"] == host
    assert got["x-forwarded-proto"] == "http"
    assert got["x-forwarded-port"] == host.rpartition(":")[2]
    assert got["x-forwarded-for"] == "203.0.113.7"
    assert got["authorization"] == "Bearer of-the-front-end"  # the server has no token of its own
    assert (got["cookie"], got["accept-encoding"]) == ("a=1; b=2", "br")
    assert (got["user-agent"], got["upgrade-insecure-requests"]) == ("me", "1")


async def test_the_host_of_a_proxy_in_front_is_kept(fronts: Any) -> None:
    forwarded = {"X-Forwarded-Host": "ui.example.com", "X-Forwarded-Proto": "https"}
    _, body = await fronts.get("/ui/one/hello", headers=forwarded)
    assert body["headers"]["x-forwarded-host"] == "ui.example.com"
    assert body["headers"]["x-forwarded-proto"] == "https"
    url = "/ui/one/redirect?to=http://localhost:PORT/ui/one/x"
    async with fronts.http.get(url, headers=forwarded, allow_redirects=False) as reply:
        assert reply.headers["location"] == "https://ui.example.com/ui/one/x"


async def test_cookies_and_response_headers(fronts: Any) -> None:
    async with fronts.http.get("/ui/one/cookies", headers={"Cookie": "c=3"}) as reply:
        assert reply.headers.getall("set-cookie") == ["a=1; Path=/", "b=2; HttpOnly"]
        assert reply.headers["x-end"] == "kept"
        assert "x-hop" not in reply.headers
        assert len(reply.headers.getall("date")) == 1
        assert (await reply.json())["cookie"] == "c=3"


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("/ui/one/hello", "/ui/one/hello"),
        ("hello?x=1", "hello?x=1"),
        ("http://localhost:PORT/ui/one/hello?x=1", "{url}/ui/one/hello?x=1"),
        ("http://127.0.0.1:PORT/ui/one/", "{url}/ui/one/"),
        ("https://login.example.com/?back=localhost:PORT", "https://login.example.com/?back="),
    ],
)
async def test_redirects_lead_back_here(fronts: Any, to: str, expected: str) -> None:
    query = {"to": to}
    async with fronts.http.get("/ui/one/redirect", params=query, allow_redirects=False) as reply:
        assert reply.status == 307
        assert reply.headers["location"].startswith(expected.format(url=fronts.url))


async def test_a_packed_response_stays_packed(fronts: Any) -> None:
    async with (
        aiohttp.ClientSession(fronts.url, auto_decompress=False) as http,
        http.get("/ui/one/gzip") as reply,
    ):
        assert reply.headers["content-encoding"] == "gzip"
        assert gzip.decompress(await reply.read()) == b"unpacked " * 1000


async def test_not_modified(fronts: Any) -> None:
    async with fronts.http.get("/ui/one/nothing") as reply:
        assert (reply.status, reply.headers["etag"]) == (304, '"1"')


async def test_events_arrive_before_the_response_ends(fronts: Any) -> None:
    async with fronts.http.get("/ui/one/events") as reply:
        assert reply.headers["content-type"] == "text/event-stream"
        first = await asyncio.wait_for(reply.content.readuntil(b"\n\n"), 5)
        assert first == b"data: first\n\n"
        await fronts.get("/ui/one/release")  # only now does the front end send the rest
        assert await asyncio.wait_for(reply.content.read(), 5) == b"data: last\n\n"


async def test_a_client_that_leaves_ends_the_stream_at_the_front_end(fronts: Any) -> None:
    before = (await fronts.get("/ui/two/closed"))[1]["closed"]
    for _ in range(3):
        async with fronts.http.get("/ui/two/events") as reply:
            await reply.content.readuntil(b"\n\n")
            reply.close()

    async def all_closed() -> bool:
        return bool((await fronts.get("/ui/two/closed"))[1]["closed"] == before + 3)

    await fronts.until(all_closed, "the front end's streams are closed")


def memory(pid: int, field: str) -> int:
    """Bytes: ``VmRSS`` now, or ``VmHWM`` at the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(field))
    return int(found.split()[1]) * 1024


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
async def test_a_large_upload_is_streamed(fronts: Any, declared: bool) -> None:
    size, piece = 128 * MIB, bytes(MIB)
    expected = hashlib.sha256(piece * 128).hexdigest()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(size // MIB):
            yield piece

    before = memory(fronts.process.pid, "VmRSS")
    headers = {"Content-Length": str(size)} if declared else {}
    async with fronts.http.put("/ui/one/count", data=body(), headers=headers) as reply:
        counted = await reply.json()
    assert (counted["bytes"], counted["sha256"]) == (size, expected)
    assert counted.get("length") == (str(size) if declared else None)
    assert memory(fronts.process.pid, "VmHWM") - before < 48 * MIB


async def test_a_large_download_is_streamed(fronts: Any) -> None:
    """To a reader that takes its time: what it does not take stays at the front end."""
    before = memory(fronts.process.pid, "VmRSS")
    read = 0
    async with fronts.http.get("/ui/two/download", params={"mib": 128}) as reply:
        async for piece in reply.content.iter_chunked(MIB):
            read += len(piece)
            if read < 8 * MIB:
                await asyncio.sleep(0.05)
    assert read == 128 * MIB
    assert memory(fronts.process.pid, "VmHWM") - before < 48 * MIB


async def test_many_requests_at_once(fronts: Any) -> None:
    async def echo(number: int) -> bool:
        data = str(number).encode() * 1000
        async with fronts.http.post("/ui/one/echo", data=data) as reply:
            return bool(await reply.read() == data)

    assert all(await asyncio.gather(*(echo(number) for number in range(100))))


async def test_a_response_that_breaks_off_does_so_here(fronts: Any) -> None:
    async with fronts.http.get("/ui/one/broken") as reply:
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()


async def test_a_connection_that_is_reset_is_502(fronts: Any) -> None:
    status, body = await fronts.get("/ui/one/reset")
    assert status == 502
    assert body["detail"] == (
        "the user interface of 'one' does not answer (it closed the connection)"
    )


@pytest.mark.parametrize(
    ("path", "detail"),
    [("/ui/nobody/", "Deployment not found"), ("/ui/", "Deployment not found")],
)
async def test_an_unknown_deployment_is_404(fronts: Any, path: str, detail: str) -> None:
    assert await fronts.get(path) == (404, {"detail": detail})


async def test_the_api_answers_while_streams_are_open(fronts: Any) -> None:
    async with fronts.http.get("/ui/one/events") as reply:
        await reply.content.readuntil(b"\n\n")
        since = time.monotonic()
        assert (await fronts.get("/status/"))[0] == 200
        assert time.monotonic() - since < 1
