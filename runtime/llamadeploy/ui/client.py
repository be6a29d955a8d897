"""The HTTP client that reaches front ends on this machine."""

from __future__ import annotations

import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from llamadeploy.ui.ports import LOOPBACKS

CONNECT_SECONDS = 10.0
"""To a process of this machine, the wait for a free one of the connections included."""

MAX_CONNECTIONS = 256
"""At a time, per front end; streams and WebSockets count."""

MAX_HEADER_BYTES = 64 * 1024
"""Of one header, cookies above all."""


class _Loopback(AbstractResolver):
    """Every name is this machine: front ends listen on 127.0.0.1, ::1 or both, as they like."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=each, proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for each, address in LOOPBACKS
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""


def open_session() -> aiohttp.ClientSession:
    """A client that adds, keeps, follows and unpacks nothing by itself."""
    connector = aiohttp.TCPConnector(
        resolver=_Loopback(),
        limit=MAX_CONNECTIONS,
        # Node.js closes idle connections after 5 s, just when the next request may be on its way.
        # A new one costs little on loopback.
        force_close=True,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
