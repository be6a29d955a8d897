"""An HTTP server inside a process that has other things to do: uvicorn without its signal handlers.

The listener is bound before anything else starts, so that a free port (0) is known and a taken
one is an error that the caller gets, not a log line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import errno
import hmac
import logging
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Self

import uvicorn
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llamadeploy.exceptions import ConfigurationError, DeploymentError
from llamadeploy.http.bounded_protocol import BoundedProtocol
from llamadeploy.http.protocol import HttpProtocol

log = logging.getLogger(__name__)

READINESS_SECONDS = 5.0
"""How long ``/readyz`` waits for the checks; below the usual period of a probe (10 s)."""

_ABORT_SECONDS = 1.0
"""How long a request whose connection was cut gets before its task is cancelled."""


MAX_CONNECTIONS = 8192
"""Of one server; more of them are answered 503. Each costs some kilobytes."""

_OTHER_FILES = 256
"""Descriptors left for everything but connections."""


def max_connections() -> int:
    """:data:`MAX_CONNECTIONS`, or what the process's limit of open files leaves."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(min(MAX_CONNECTIONS, files - _OTHER_FILES), 64)


class HttpServer:
    """Serve an ASGI application from within the running event loop.

    Args:
        app: the ASGI application; its lifespan events are sent where it takes them.
        host: address or name to bind.
        port: TCP port; 0 takes a free one.
        setting: how the user chooses another port, for the error that a port is in use.
    """

    def __init__(
        self,
        app: Any,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        setting: str = "the port setting",
    ) -> None:
        self._app = app
        self._host = host
        self._wanted_port = port
        self._setting = setting
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The bound port; the wanted one before ``start``."""
        return self._wanted_port if self._port is None else self._port

    @property
    def host(self) -> str:
        """The host it was made with."""
        return self._host

    @property
    def url(self) -> str:
        """Base URL without a slash at the end; loopback where it listens on all interfaces."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Bind, start the application and accept connections.

        Raises:
            ConfigurationError: the port is in use or may not be bound, or the host is not ours.
            DeploymentError: the application's own start failed.
        """
        if self._task is not None:
            raise RuntimeError("the server was started already")
        listener = await bind(self._host, self._wanted_port, setting=self._setting)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="auto",
            http=BoundedProtocol,
            limit_concurrency=max_connections(),
            server_header=False,
            # Longer than the idle time of common client pools (aiohttp: 15 s), so that it is the
            # client that closes, and no request runs into a connection we are just closing.
            timeout_keep_alive=75,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.run_on(listener), name="http-server")
        await self._server.ready.wait()
        if not self._server.started:
            task, self._task, self._server = self._task, None, None
            await asyncio.wait({task})
            listener.close()
            raise DeploymentError(
                "the application failed to start; the log above says why"
            ) from task.exception()

    async def wait(self) -> None:
        """Return when the server has ended (after :meth:`stop`); raise what ended it otherwise."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self, grace: float = 5.0, *, leave: float = 0.0) -> None:
        """Stop accepting, give running requests ``grace`` seconds, then cut them. Idempotent.

        A stream that is cut ends without its terminating chunk, so its reader can tell that it
        is incomplete.

        Args:
            leave: seconds before that in which requests are still taken, and every reply closes
                its connection: a client that keeps connections goes elsewhere, and does not write
                its next request into one that is just being closed. Over as soon as all are gone.
        """
        if self._task is None or self._server is None:
            return
        self._server.stop(grace, leave)
        await self._task
        self._task = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()


class _Server(uvicorn.Server):
    """uvicorn's server, woken instead of polling, and leaving signals to the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grace = 0.0
        self._leave = 0.0

    def stop(self, grace: float, leave: float) -> None:
        self._grace, self._leave = grace, leave
        self.should_exit = True
        self._stopping.set()

    async def run_on(self, listener: socket.socket) -> None:
        try:
            await self.serve(sockets=[listener])
        except SystemExit:
            # uvicorn's answer to a failed start of the application, which it has logged.
            self.started = False
        finally:
            self.ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        await self.on_tick(0)  # the Date header, before the first request
        self.ready.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # 0: refresh the Date header every time
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), timeout=1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._part()
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await _finish(self.server_state.tasks, self._grace)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await _finish(self.server_state.tasks, _ABORT_SECONDS)
        for task in self.server_state.tasks:
            task.cancel("the server stopped")
        await _finish(self.server_state.tasks, _ABORT_SECONDS)
        await self.lifespan.shutdown()

    async def _part(self) -> None:
        """Have each connection end with a reply, for as long as that is given."""
        deadline = time.monotonic() + self._leave
        self.config.encoded_headers.append((b"connection", b"close"))
        await self.on_tick(0)  # which makes the headers of every reply from them
        connections: set[HttpProtocol] = self.server_state.connections  # type: ignore[assignment]
        while connections:
            gone = asyncio.Event()
            next(iter(connections)).departure.add(gone.set)
            try:
                await asyncio.wait_for(gone.wait(), deadline - time.monotonic())
            except TimeoutError:
                return

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def _finish(tasks: set[asyncio.Task[None]], timeout: float) -> None:
    if tasks:
        await asyncio.wait(set(tasks), timeout=timeout)


async def bind(host: str, port: int, *, setting: str = "the port setting") -> socket.socket:
    """A TCP socket bound to the first address of ``host`` (IPv4 before IPv6), not yet listening.

    Raises:
        ConfigurationError: says which of port and host is wrong, and that ``setting`` changes it.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"port {port} is wrong: {setting} must be from 0 to 65535")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigurationError(f"host {host!r} cannot be resolved: {error.strerror}") from error
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        # Linux lets two sockets with SO_REUSEADDR bind one port; it is listen() that fails then.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_bind_problem(error, host, port, setting)) from error
    listener.setblocking(False)
    return listener


def _bind_problem(error: OSError, host: str, port: int, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use on {host or 'this machine'}: choose another with {setting}"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights: choose one from 1024 up with {setting}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host {host!r} is not an address of this machine: use 127.0.0.1 or 0.0.0.0"
    return f"cannot listen on {host}:{port}: {error.strerror}"


def token_matches(authorization: str | None, token: str) -> bool:
    """Whether an ``Authorization`` header carries ``token``: as a bearer token, or as the
    password of basic authentication (the user name does not matter). Takes constant time."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    try:
        given = value.strip().encode("latin-1")  # the bytes that came: ASGI decoded them so
    except UnicodeEncodeError:
        return False
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, token.encode())


class TokenMiddleware:
    """ASGI middleware that answers 401 to requests without the token.

    Args:
        app: the application behind it.
        token: the token, see :func:`token_matches`.
        exempt: paths that need none, such as probes.
    """

    def __init__(self, app: ASGIApp, token: str, exempt: Sequence[str] = ()) -> None:
        self._app = app
        self._token = token
        self._exempt = frozenset(exempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "lifespan"
            or scope["path"] in self._exempt
            or token_matches(Headers(scope=scope).get("authorization"), self._token)
        ):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # 1008: policy violation
        else:
            await _unauthorised(scope, receive, send)


async def _unauthorised(scope: Scope, receive: Receive, send: Send) -> None:
    reply = JSONResponse(
        {"detail": "a valid token is needed: 'Authorization: Bearer <token>'"},
        status_code=401,
        headers={"WWW-Authenticate": "Bearer"},
    )
    # Apart from the first: browsers do not look for a second scheme in one header.
    reply.headers.append("WWW-Authenticate", 'Basic realm="llamadeploy", charset="UTF-8"')
    await reply(scope, receive, send)


Check = Callable[[], Awaitable[Sequence[str]]]


def probe_routes(ready: Check, warnings: Check | None = None) -> APIRouter:
    """``GET /healthz`` (the process answers) and ``GET /readyz`` (it can do its work).

    Args:
        ready: returns the reasons why not, empty when ready; a failing or slow check counts as
            not ready. The reasons go to whoever asks, so they hold no secrets.
        warnings: what is wrong although it is ready; shown next to the reasons.
    """
    router = APIRouter()

    @router.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        if warnings is None:
            reasons, more = await _reasons(ready), {}
        else:
            reasons, found = await asyncio.gather(_reasons(ready), _reasons(warnings))
            more = {"warnings": found}
        if reasons:
            return JSONResponse({"status": "not ready", "reasons": reasons, **more}, 503)
        return JSONResponse({"status": "ok", "reasons": [], **more})

    return router


async def _reasons(ready: Check) -> list[str]:
    try:
        return list(await asyncio.wait_for(ready(), READINESS_SECONDS))
    except TimeoutError:
        return [f"the readiness checks did not answer within {READINESS_SECONDS:g} s"]
    except Exception as error:
        log.warning("readiness check failed", exc_info=error)
        return [f"the readiness check failed: {type(error).__name__}"]
