"""A proxy between a client and the API server that breaks watches in the ways they break.

It speaks plain HTTP on the loopback interface, so that it can write into a stream; the connection
to the API server is TLS as ever.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from e2e.cluster.process import free_port

T = TypeVar("T")
_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "host"}


class FaultProxy:
    """Forwards everything until it is told to break something. It runs in a thread of its own.

    Attributes:
        url: to be used in place of the API server's.
    """

    def __init__(self, upstream: str, certificate: Path) -> None:
        self._upstream = upstream
        self._tls = ssl.create_default_context(cafile=str(certificate))
        self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._watches: dict[web.StreamResponse, web.Request] = {}
        self._silent: set[web.StreamResponse] = set()
        self._refuse = 0
        self._deaf = self._cut = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    def start(self) -> None:
        self._thread.start()
        self._call(self._start())

    def stop(self) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def send_error(self, code: int) -> None:
        """Each open watch gets an ``ERROR`` event and ends."""
        self._call(self._send_error(code))

    def reset(self) -> None:
        """Each open watch's connection is reset (RST)."""
        self._call(self._reset())

    def silence(self) -> None:
        """Open watches stay open, and nothing ever comes on them again."""
        self._silent |= set(self._watches)

    def be_deaf(self, deaf: bool) -> None:
        """New watches too are opened and stay silent."""
        self._deaf = deaf
        if deaf:
            self.silence()

    def cut(self) -> None:
        """As if the cable were pulled: nothing is answered any more, and nobody is told."""
        self._cut = True
        self.silence()

    def refuse(self, status: int) -> None:
        """Every request is answered with this status; 0: no more."""
        self._refuse = status

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(30)

    async def _start(self) -> None:
        limits = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=limits, read_bufsize=2**21
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A handler ends with its connection, whatever it waits for.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def _stop(self) -> None:
        await self._reset()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _send_error(self, code: int) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        line = json.dumps({"type": "ERROR", "object": status | {"message": "injected"}}) + "\n"
        for response, request in list(self._watches.items()):
            await response.write(line.encode())
            await response.write_eof()
            request.task.cancel()

    async def _reset(self) -> None:
        for request in list(self._watches.values()):
            if request.transport is not None:
                request.transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        if self._cut:
            await asyncio.Event().wait()
        if self._refuse:
            reason = {"kind": "Status", "code": self._refuse, "message": "injected"}
            return web.json_response(reason, status=self._refuse)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        async with self._session.request(
            request.method,
            f"{self._upstream}{request.path_qs}",
            data=await request.read() or None,
            headers=headers | {"Accept-Encoding": "identity"},
        ) as upstream:
            passed = {k: v for k, v in upstream.headers.items() if k.lower() not in _HOP}
            if request.query.get("watch") != "true" or upstream.status != 200:
                return web.Response(
                    status=upstream.status, headers=passed, body=await upstream.read()
                )
            response = web.StreamResponse(status=200, headers=passed)
            await response.prepare(request)
            await self._stream(request, response, upstream)
            return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, upstream: aiohttp.ClientResponse
    ) -> None:
        self._watches[response] = request
        if self._deaf:
            self._silent.add(response)
        try:
            async for line in upstream.content:
                if response in self._silent:
                    await asyncio.Event().wait()
                await response.write(line)
        except (ConnectionError, aiohttp.ClientError):
            pass
        finally:
            self._watches.pop(response, None)
            self._silent.discard(response)
