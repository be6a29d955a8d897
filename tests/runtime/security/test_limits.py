"""Heads, bodies, streams and waits are bounded, with an answer that says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from llamadeploy.control_plane.routes.capacity import Capacity
from llamadeploy.control_plane.routes.limits import MAX_BODY_BYTES
from llamadeploy.http import bounded_protocol
from llamadeploy.http.bounded_protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_URL_BYTES
from llamadeploy.http.serving import HttpServer

HEAD = b"GET /status/ HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("request_head", "status", "detail"),
    [
        (b"GET /" + b"a" * MAX_URL_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "URL"),
        (HEAD + b"X: y\r\n" * MAX_HEADERS + b"\r\n", 431, f"at most {MAX_HEADERS}"),
        (HEAD + b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, f"at most {MAX_HEAD_BYTES}"),
        (HEAD + (b"X: " + b"y" * 1000 + b"\r\n") * 70 + b"\r\n", 431, "too large"),
        (HEAD + b"X: " + b"y" * 3_000_000, 431, "too large"),
        (HEAD + b"X" * 3_000_000, 431, "too large"),
        (b"GET /" + b"a" * 3_000_000, 414, "URL"),
    ],
    ids=["url", "many", "long", "large", "endless value", "endless name", "endless url"],
)
def test_a_request_head_is_bounded(
    server: Any, raw: Any, request_head: bytes, status: int, detail: str
) -> None:
    got, answer = raw(server.url, request_head)
    assert got == status, answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert detail in json.loads(body)["detail"]
    assert server.get("/status/").status == 200


def test_a_head_just_below_the_bounds_is_taken(server: Any, raw: Any) -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 600) for n in range(MAX_HEADERS - 3))
    got, answer = raw(server.url, HEAD + fields + b"Connection: close\r\n\r\n")
    assert got == 200, answer[:300]


async def test_a_head_that_does_not_come_is_given_up(
    raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_protocol, "HEAD_SECONDS", 0.2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async with HttpServer(app) as server:
        for sent in (b"", b"GET / HT", HEAD + b"X: "):
            status, answer = await asyncio.to_thread(raw, server.url, sent)
            assert status == 408 and b"within 0.2 s" in answer
        first = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        status, answer = await asyncio.to_thread(raw, server.url, first + b"GET / HT")
        assert status == 200 and b"408 Request Timeout" in answer, "also the second request's"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Any, raw: Any) -> None:
    head = b"POST /deployments/create HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    status, answer = raw(server.url, head % (MAX_BODY_BYTES + 1))
    assert status == 413 and b"too large" in answer


async def test_a_chunked_body_is_counted(open_plane: Any, raw: Any) -> None:
    head = (
        b"POST /deployments/quickstart/tasks/run HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    body = chunk * (MAX_BODY_BYTES // 0x100000 + 1) + b"0\r\n\r\n"
    async with open_plane() as plane:
        status, answer = await asyncio.to_thread(raw, plane.url, head + body)
        assert status == 413 and b"too large" in answer
        assert await plane.get("/services")


async def test_streams_are_counted_and_one_too_many_is_refused(
    open_plane: Any, wait_until: Any
) -> None:
    async with open_plane() as plane:
        capacity = plane.app.state.capacity = Capacity(streams=2)
        session = await plane.session()
        task = await plane.task(session, "slow")
        path = f"{plane.url}/deployments/quickstart/tasks/{task}/events"
        first = await plane.http.get(path)
        second = await plane.http.get(path, headers={"Accept": "text/event-stream"})
        await wait_until(lambda: capacity.streams == 2)
        async with plane.http.get(path) as third:
            assert third.status == 503 and third.headers["Retry-After"] == "1"
            assert "2 streams are read here" in (await third.json())["detail"]
        first.close()  # the reader goes away: its place is free
        await wait_until(lambda: capacity.streams == 1)
        async with plane.http.get(path) as again:
            assert again.status == 200
        second.close()
        await wait_until(lambda: capacity.streams == 0)


async def test_waits_are_counted_and_one_too_many_is_refused(
    open_plane: Any, wait_until: Any
) -> None:
    async with open_plane() as plane:
        capacity = plane.app.state.capacity = Capacity(waits=2)
        session = await plane.session()
        task = await plane.task(session, "slow")
        wait = f"/deployments/quickstart/tasks/{task}/results?wait=60"
        run = "/deployments/quickstart/tasks/run"
        # Large: the server stops reading meanwhile, and must see the client leave all the same.
        text = json.dumps({"message": "x" * 300_000})
        body = {"input": text, "service_id": "slow"}
        waiting = [
            asyncio.create_task(plane.get(wait)),
            asyncio.create_task(plane.post(run, body)),
        ]
        await wait_until(lambda: capacity.waits == 2)
        for method, path in (("GET", wait), ("POST", run)):
            reply = await plane.call(method, path, 503, json=body if method == "POST" else None)
            assert "2 requests wait for results here" in reply["detail"]
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await wait_until(lambda: capacity.waits == 0)
        assert await plane.get(f"{wait.removesuffix('60')}0.01") is None


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch, wait_until: Any) -> None:
    monkeypatch.setattr("llamadeploy.http.serving.max_connections", lambda: 3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async with HttpServer(app) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        async with aiohttp.ClientSession() as http, http.get(server.url) as response:
            assert response.status == 503
        for _, writer in held:
            writer.close()
            await writer.wait_closed()

        async def answers() -> bool:
            async with aiohttp.ClientSession() as http, http.get(server.url) as response:
                return response.status == 200

        await wait_until(answers)
