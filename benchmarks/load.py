"""The load client, a process of its own: raw HTTP/1.1, so that the server is the limit.

`python -m benchmarks.load tasks|events ...` prints one JSON object. A request costs this client
about 20 microseconds; `client_cpu` in the result shows how much of one core it used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

ECHO = b'"echo: x"'


@dataclass
class Tally:
    """What the connections of one run share."""

    left: int
    """Requests not yet sent."""
    deadline: float
    """`time.perf_counter()` after which no request is sent."""
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    options = _options()
    used = _cpu_seconds()
    started = time.perf_counter()
    if options.what == "tasks":
        result = uvloop.run(run_tasks(options))
    else:
        result = uvloop.run(read_events(options))
    used = _cpu_seconds() - used
    result["client_cpu"] = used / (time.perf_counter() - started)
    print(json.dumps(result))


async def run_tasks(options: argparse.Namespace) -> dict[str, Any]:
    """Echo tasks over `--in-flight` kept-alive connections, each with one request at a time.

    Ends after `--count` tasks or `--seconds`; what is under way at that moment is not counted.
    """
    started = time.perf_counter()
    tally = Tally(options.count, started + options.seconds)
    request = _request(options, "/tasks/run", {"input": '{"message": "x"}', "service_id": "echo"})
    if options.keep:
        request = request.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: %d\r\n\r\n", 1)
    loop = asyncio.get_running_loop()
    address = urllib.parse.urlsplit(options.url)
    connections = [
        (await loop.create_connection(lambda: _Connection(tally, request), address.hostname,
                                      address.port))[1]
        for _ in range(options.in_flight)
    ]  # fmt: skip
    done, late = await asyncio.wait([each.ended for each in connections], timeout=options.seconds)
    seconds = time.perf_counter() - started
    for each in late:
        each.cancel()
    for each in done:
        each.result()
    return {
        "count": len(tally.seconds),
        "seconds": seconds,
        "per_second": len(tally.seconds) / seconds,
        "p50_ms": 1000 * _quantile(tally.seconds, 0.50),
        "p95_ms": 1000 * _quantile(tally.seconds, 0.95),
        "p99_ms": 1000 * _quantile(tally.seconds, 0.99),
        "wrong": len(tally.wrong),
        "first_wrong": tally.wrong[:1],
    }


class _Connection(asyncio.Protocol):
    """One request at a time until none is left; ``ended`` then, or with the error that ended it."""

    def __init__(self, tally: Tally, request: bytes) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._request = request
        self._keyed = b"%d" in request
        self._buffer = b""
        self._started = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        tally = self._tally
        if tally.left <= 0 or time.perf_counter() >= tally.deadline:
            self._transport.close()
            if not self.ended.done():
                self.ended.set_result(None)
            return
        tally.left -= 1
        self._started = time.perf_counter()
        self._transport.write(self._request % tally.left if self._keyed else self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        self._buffer = b""
        if body == ECHO:
            self._tally.seconds.append(time.perf_counter() - self._started)
        else:
            self._tally.wrong.append((head + body)[:500].decode(errors="replace"))
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError("the server closed the connection"))


async def read_events(options: argparse.Namespace) -> dict[str, Any]:
    """Create a task that writes `--count` events and read its stream to the end.

    The clock runs from before the task is created until the stream closes. Afterwards the lines
    are checked: every event once, in order.
    """
    body = {"input": json.dumps({"n": options.count}), "service_id": "stream"}
    started = time.perf_counter()
    created = json.loads(
        await _whole(options, _request(options, "/tasks/create", body, close=True))
    )
    path = f"/tasks/{created['task_id']}/events?session_id={created['session_id']}"
    content = await asyncio.wait_for(
        _whole(options, _request(options, path, close=True)), options.seconds
    )
    seconds = time.perf_counter() - started
    lines = [json.loads(line) for line in content.splitlines() if line.strip()]
    counts = [line["count"] for line in lines if line]
    return {
        "count": len(counts),
        "seconds": seconds,
        "per_second": len(counts) / seconds,
        "complete": counts == list(range(options.count)),
    }


async def _whole(options: argparse.Namespace, request: bytes) -> bytes:
    """The body of one reply on a connection of its own."""
    reader, writer = await _connect(options)
    try:
        writer.write(request)
        parts = []
        while part := await reader.read(1 << 20):
            parts.append(part)
    finally:
        writer.close()
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError((head + body)[:500].decode(errors="replace"))
    return _unchunked(body) if b"chunked" in head.lower() else body


def _unchunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def _request(
    options: argparse.Namespace, path: str, body: Any = None, close: bool = False
) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = [
        f"{'GET' if body is None else 'POST'} /deployments/{options.deployment}{path} HTTP/1.1",
        f"Host: {urllib.parse.urlsplit(options.url).netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


async def _connect(
    options: argparse.Namespace,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urllib.parse.urlsplit(options.url)
    return await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise RuntimeError(f"no Content-Length in {head!r}")


def _quantile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["tasks", "events"])
    parser.add_argument("--url", required=True, help="the API server")
    parser.add_argument("--deployment", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--seconds", type=float, required=True, help="upper bound")
    parser.add_argument(
        "--keep", action="store_true", help="tasks stay on the server until their retention ends"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
