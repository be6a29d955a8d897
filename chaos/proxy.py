"""A TCP proxy that stands for the network: it cuts, delays, or loses connections without a word."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from types import TracebackType
from typing import Self

CHUNK = 1 << 16


class Network(Enum):
    """How the way between processes and a server is."""

    WHOLE = "whole"
    CUT = "cut"
    """Connections are reset, new ones refused."""
    HELD = "held"
    """Nothing passes; what was sent arrives once the network is whole again."""
    SILENT = "silent"
    """Nothing passes and nobody is told. Connections from before stay open for ever and carry
    nothing; ones that were begun meanwhile come through once the network is whole again."""


class Proxy:
    """Forwards ``port`` to ``target`` on this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._network = Network.WHOLE
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.reset()

    def become(self, network: Network) -> None:
        """Change the network, for the connections that there are and for new ones."""
        self._network = network
        if network is Network.WHOLE:
            self._whole.set()
            return
        self._whole.clear()
        for link in list(self._links):
            if network is Network.CUT:
                link.reset()
            elif network is Network.SILENT:
                link.dead = True

    async def pass_through(self) -> None:
        """Wait until something may pass."""
        await self._whole.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._network is Network.CUT:
            writer.transport.abort()
            return
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run(self._target)
        finally:
            self._links.discard(link)


class _Link:
    """One client's connection and ours to the server."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._ends = [(reader, writer)]
        self.dead = False

    async def run(self, target: int) -> None:
        await self._proxy.pass_through()
        try:
            self._ends.append(await asyncio.open_connection("127.0.0.1", target))
            (down, to_client), (up, to_server) = self._ends
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(down, to_server))
                group.create_task(self._copy(up, to_client))
        except* OSError:
            pass
        finally:
            self.reset()

    def reset(self) -> None:
        for _, writer in self._ends:
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._proxy.pass_through()
            if self.dead:
                continue
            writer.write(data)
            await writer.drain()
        if not self.dead:
            writer.close()
