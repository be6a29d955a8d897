"""Passes a WebSocket on to the front end: messages in both directions, subprotocol, close codes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from multidict import CIMultiDict
from starlette.types import Receive, Scope, Send
from yarl import URL

HANDSHAKE_SECONDS = 30.0
CLOSE_SECONDS = 2.0
"""How long the front end may take to say goodbye."""

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""As the server in front allows."""

_NORMAL, _GOING_AWAY, _BAD_GATEWAY = 1000, 1001, 1014
_NOT_SENT = (1004, 1005, 1006, 1015)
"""Close codes that a frame cannot have, RFC 6455 section 7.4.1."""


async def proxy_websocket(
    session: aiohttp.ClientSession,
    url: URL,
    headers: CIMultiDict[str],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Connect to the front end, accept what it accepts, and pass messages until one side ends."""
    for name in [name for name in headers if name.lower().startswith("sec-websocket-")]:
        headers.popall(name, None)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            upstream = await session.ws_connect(
                url,
                protocols=scope.get("subprotocols") or (),
                headers=headers,
                max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
            )
    except aiohttp.WSServerHandshakeError as error:
        status = error.status if error.status >= 400 else 502
        await refuse_websocket(send, status, "the user interface refused the WebSocket")
        return
    except TimeoutError:
        await refuse_websocket(send, 504, "the user interface did not answer in time")
        return
    except aiohttp.ClientError:
        await refuse_websocket(send, 502, "the user interface does not answer")
        return
    async with upstream:
        await send({"type": "websocket.accept", "subprotocol": upstream.protocol})
        await _both_ways(upstream, receive, send)


async def refuse_websocket(send: Send, status: int, text: str) -> None:
    """Answer the handshake, which has not been accepted, with an HTTP error."""
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def _both_ways(
    upstream: aiohttp.ClientWebSocketResponse, receive: Receive, send: Send
) -> None:
    up = asyncio.create_task(_to_front_end(upstream, receive), name="ui websocket up")
    down = asyncio.create_task(_to_client(upstream, send), name="ui websocket down")
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
        down.cancel()
        results = await asyncio.gather(up, down, return_exceptions=True)
    for result in results:
        # Whoever is gone cannot be told; the other side is, by the end of this call.
        if isinstance(result, Exception) and not isinstance(result, OSError | aiohttp.ClientError):
            raise result


async def _to_front_end(upstream: aiohttp.ClientWebSocketResponse, receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code") or _NORMAL
            reason = message.get("reason") or ""
            await upstream.close(
                code=_GOING_AWAY if code in _NOT_SENT else code, message=reason.encode()
            )
            return
        if (data := message.get("bytes")) is not None:
            await upstream.send_bytes(data)
        else:
            await upstream.send_str(message["text"])


async def _to_client(upstream: aiohttp.ClientWebSocketResponse, send: Send) -> None:
    code: Any = _BAD_GATEWAY
    reason = ""
    while True:
        message = await upstream.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
        elif message.type is aiohttp.WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
        else:
            break
    if message.type is aiohttp.WSMsgType.CLOSE:
        code, reason = message.data or _NORMAL, message.extra or ""
    elif message.type is aiohttp.WSMsgType.ERROR and upstream.close_code == 1009:
        code = 1009  # the message was too large
    await send(
        {"type": "websocket.close", "code": _NORMAL if code in _NOT_SENT else code,
         "reason": reason}
    )  # fmt: skip
