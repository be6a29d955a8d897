"""Event streams over HTTP: legacy ndjson, typed ndjson, and server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum

from fastapi import Request, Response

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.control_plane.routes.capacity import CountedStream, capacity_of
from llamadeploy.control_plane.streams import Restart, StreamItem

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

LEGACY_END = b"{}\n"
"""Ends a legacy stream in which heartbeat spaces follow the last line: as a line of their own they
would not parse. To a client of 0.8.1 it looks like the stop event that ends every stream."""


class StreamFormat(StrEnum):
    """``?format=``: ``legacy`` as in 0.8.1, ``typed`` with seq, attempt, index and type."""

    LEGACY = "legacy"
    TYPED = "typed"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How items and heartbeats are written."""

    media_type: str
    line: Callable[[StreamItem], str]
    heartbeat: bytes
    end: bytes = b""


async def stream_response(
    request: Request,
    control_plane: ControlPlane,
    task_id: str,
    *,
    after: int = 0,
    style: StreamFormat = StreamFormat.LEGACY,
    follow: bool = True,
) -> Response:
    """The task's events until its end, as the client asked for them (``Accept``, ``format``).

    A browser's ``EventSource`` connects again when a stream ends; 204 tells it that all was said.

    Raises:
        NotFoundError: no such task.
    """
    encoding, legacy = _choose(request, style)
    last = request.headers.get("last-event-id", "")
    # isdecimal alone takes digits of other scripts, and numbers of any length.
    if not after and last.isascii() and last.isdecimal() and len(last) < 19:
        after = int(last)
    if encoding is _SSE and last and await control_plane.stream_is_over(task_id, after):
        return Response(status_code=204)
    batches = control_plane.stream(task_id, after, legacy, follow)
    return CountedStream(
        _encode(batches, encoding),
        capacity=capacity_of(request),
        media_type=encoding.media_type,
    )


def _choose(request: Request, style: StreamFormat) -> tuple[Encoding, bool]:
    if SSE in request.headers.get("accept", ""):
        return _SSE, False
    return (_TYPED, False) if style is StreamFormat.TYPED else (_LEGACY, True)


async def _encode(
    batches: AsyncIterator[list[StreamItem]], encoding: Encoding
) -> AsyncIterator[bytes]:
    idle = False
    async for items in batches:
        if items:
            yield "".join(map(encoding.line, items)).encode()
        else:
            yield encoding.heartbeat
        idle = not items
    if idle and encoding.end:
        yield encoding.end


def _legacy_line(item: StreamItem) -> str:
    return "" if isinstance(item, Restart) else f"{item.data}\n"


def _typed_object(item: StreamItem) -> str:
    if isinstance(item, Restart):
        marker = {"attempt": item.attempt, "base_index": item.base_index}
        return json.dumps({"restart": marker})
    return (
        f'{{"seq": {item.seq}, "attempt": {item.attempt}, "index": {item.index}, '
        f'"type": {json.dumps(item.type)}, "data": {item.data}}}'
    )


def _typed_line(item: StreamItem) -> str:
    return _typed_object(item) + "\n"


def _sse_message(item: StreamItem) -> str:
    if isinstance(item, Restart):
        return f"event: restart\ndata: {_typed_object(item)}\n\n"
    # A foreign service may write anything for the type; a line break would begin another field.
    kind = " ".join(item.type.split())
    return f"id: {item.seq}\nevent: {kind}\ndata: {_typed_object(item)}\n\n"


_LEGACY = Encoding(NDJSON, _legacy_line, b" ", LEGACY_END)
_TYPED = Encoding(NDJSON, _typed_line, b" ", b"\n")
_SSE = Encoding(SSE, _sse_message, b":\n\n")
