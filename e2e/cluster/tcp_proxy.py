"""A TCP proxy in a thread of its own that can cut connections and fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST


class LoopThread:
    """An event loop that goes on while a test blocks, and that any thread may use."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 20.0) -> T:
        """The result of ``work``, run in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def stop(self) -> None:
        """End what still runs in it, then the loop and its thread."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TcpProxy:
    """Listens on a free loopback port and passes bytes on, as long as it is told to.

    Attributes:
        port: where it listens; the same after :meth:`refuse`.
    """

    def __init__(self, threaded: LoopThread, target_port: int) -> None:
        self._threaded = threaded
        self._target_port = target_port
        self._open = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pairs: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0

    def start(self) -> None:
        """Listen (again, on the same port)."""
        self._threaded.run(self._start())

    def cut(self) -> None:
        """Every connection there is ends with RST, at both ends; new ones are served."""
        self._threaded.run(self._cut())

    def silence(self) -> None:
        """From now on not a byte passes, on old and new connections: they stay open."""
        self._threaded.run(self._set(False))

    def heal(self) -> None:
        """Bytes pass again; what was held back arrives late, as it would on a real network."""
        self._threaded.run(self._set(True))

    def refuse(self) -> None:
        """New connections are refused and old ones cut, until :meth:`start`."""
        self._threaded.run(self._refuse())

    def close(self) -> None:
        """End it; idempotent."""
        self.refuse()

    async def _start(self) -> None:
        self._open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _set(self, flows: bool) -> None:
        if flows:
            self._open.set()
        else:
            self._open.clear()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            taken = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            away, other = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(other)
            await asyncio.gather(self._pump(reader, other), self._pump(away, writer))
        except (OSError, asyncio.CancelledError):
            pass  # cut, or one end left: the other one follows
        finally:
            self._pairs.discard(task)
            for each in (writer, other):
                if each is not None:
                    self._writers.discard(each)
                    each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        await self._open.wait()
        writer.close()
