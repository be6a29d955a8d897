"""A proxy between a client and the API server that breaks what a test wants broken.

::

    client -- TLS --> TcpProxy (cut, silence, refuse) --> HttpProxy (errors, counts) --> API server

It answers with the API server's own certificate, so a kubeconfig needs nothing but its URL::

    proxy = ApiProxy(control_plane); proxy.start()
    run_operator(kubeconfig=proxy.kubeconfig_for("operator"))
    proxy.break_watches(410)                         # an ERROR event, then the stream ends; once
    proxy.break_watches(500, resource="secrets", lasting=True)     # and each new one, until heal()
    proxy.fail(403, resource="secrets", verbs=("list", "watch"))   # the answer itself, until heal()
    proxy.cut()                                      # RST on every connection
    proxy.silence()                                  # connections stay open, nothing passes
    proxy.refuse()                                   # nobody listens
    proxy.heal()                                     # everything passes again
    proxy.mark(); ...; assert not proxy.writes()     # Counter of (verb, resource), since the mark
    proxy.watching()                                 # Counter of resources with an open watch

Every method may be called from any thread; it runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from e2e.cluster.audit import WRITES
from e2e.cluster.tcp_proxy import LoopThread, TcpProxy

if TYPE_CHECKING:
    from e2e.cluster.control_plane import ControlPlane

REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict",
           410: "Expired", 429: "TooManyRequests", 500: "InternalError",
           503: "ServiceUnavailable"}  # fmt: skip
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a request is about.

    Attributes:
        verb: as RBAC names it.
        resource: plural, with the subresource: ``workflowservices/status``; ``""`` for none.
    """

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Which requests fail, and how; None: whatever they are about."""

    code: int
    resource: str | None = None
    verbs: Collection[str] | None = None
    namespace: str | None = None

    def hits(self, request: Request) -> bool:
        return (
            self.resource in (None, request.resource)
            and self.namespace in (None, request.namespace)
            and (self.verbs is None or request.verb in self.verbs)
        )

    def status(self) -> bytes:
        """The ``Status`` object that the API server would send."""
        body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": f"injected by a test: {self.code}", "code": self.code,
            "reason": REASONS.get(self.code, "InternalError"),
        }  # fmt: skip
        return json.dumps(body).encode()


@dataclass(eq=False)
class _Watch:
    request: Request
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Failure | None = None


class ApiProxy:
    """See the module. ``start`` it, and ``close`` it in the end."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._threaded = LoopThread("api-proxy")
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._tcp: TcpProxy | None = None
        self._failures: list[Failure] = []
        self._watch_failures: list[Failure] = []
        self._watches: set[_Watch] = set()
        self._requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listening.port}"

    @property
    def connections(self) -> int:
        """How many were accepted so far."""
        return self._listening.accepted

    def kubeconfig_for(self, user: str = "admin") -> Path:
        """A kubeconfig file that leads here."""
        return self._control_plane.kubeconfig_for(user, server=self.url)

    def start(self) -> None:
        """Listen."""
        port = self._threaded.run(self._start())
        self._tcp = TcpProxy(self._threaded, port)
        self._tcp.start()

    def close(self) -> None:
        """End it with its connections."""
        if self._tcp is not None:
            self._tcp.close()
        self._threaded.run(self._close())
        self._threaded.stop()

    # -- breaking -------------------------------------------------------------------------------

    def break_watches(
        self, code: int, *, resource: str | None = None, lasting: bool = False
    ) -> int:
        """Open watches get an ERROR event with this code and end; how many did.

        Args:
            resource: only those of this one.
            lasting: so does each new watch, until :meth:`heal`.
        """
        return self._threaded.run(self._break(Failure(code, resource), lasting))

    def fail(
        self,
        code: int,
        *,
        resource: str | None = None,
        verbs: Collection[str] | None = None,
        namespace: str | None = None,
    ) -> None:
        """Such requests are answered with this code and not passed on, until :meth:`heal`."""
        self._failures.append(Failure(code, resource, verbs, namespace))

    def cut(self) -> None:
        """RST on every connection; new ones are served."""
        self._listening.cut()

    def silence(self) -> None:
        """Connections stay open, new ones are accepted, and nothing passes, until :meth:`heal`."""
        self._listening.silence()

    def refuse(self) -> None:
        """Connections are cut, and new ones refused, until :meth:`heal`."""
        self._listening.refuse()

    def heal(self) -> None:
        """All passes again."""
        self._failures.clear()
        self._watch_failures.clear()
        self._listening.start()

    # -- looking --------------------------------------------------------------------------------

    def mark(self) -> None:
        """Forget the requests until now."""
        self._requests.clear()

    def requests(self) -> list[Request]:
        """Since the mark, oldest first; failed ones too."""
        return list(self._requests)

    def writes(self) -> Counter[tuple[str, str]]:
        """(verb, resource) -> how many, since the mark."""
        found = [request for request in self._requests if request.verb in WRITES]
        return Counter((request.verb, request.resource) for request in found)

    def watching(self) -> Counter[str]:
        """Resource -> open watches."""
        return Counter(watch.request.resource for watch in list(self._watches))

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _listening(self) -> TcpProxy:
        assert self._tcp is not None, "start it first"
        return self._tcp

    async def _start(self) -> int:
        certificate = self._control_plane.certificate
        trusted = ssl.create_default_context(cafile=str(certificate))
        trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._session = ClientSession(
            connector=TCPConnector(ssl=trusted, limit=0),
            timeout=ClientTimeout(total=None),
            auto_decompress=True,
        )
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(certificate, certificate.with_suffix(".key"))
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=serving)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _break(self, failure: Failure, lasting: bool) -> int:
        if lasting:
            self._watch_failures.append(failure)
        hit = [watch for watch in self._watches if failure.hits(watch.request)]
        for watch in hit:
            watch.failure = failure
            watch.broken.set()
        return len(hit)

    async def _handle(self, incoming: web.Request) -> web.StreamResponse:
        request = parse(incoming.method, incoming.path, dict(incoming.query))
        self._requests.append(request)
        failure = next((item for item in self._failures if item.hits(request)), None)
        if failure is not None:
            return web.Response(
                status=failure.code, body=failure.status(), content_type="application/json"
            )
        assert self._session is not None
        headers = {k: v for k, v in incoming.headers.items() if k.lower() not in _HOP_BY_HOP}
        url = f"{self._control_plane.url}{incoming.raw_path}"
        body = await incoming.read()
        async with self._session.request(
            incoming.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            if request.verb != "watch" or answer.status != 200:
                content = await answer.read()
                return web.Response(status=answer.status, headers=kept, body=content)
            outgoing = web.StreamResponse(status=200, headers=kept)
            await outgoing.prepare(incoming)
            await self._stream(_Watch(request), answer.content, outgoing)
            return outgoing

    async def _stream(
        self, watch: _Watch, source: asyncio.StreamReader, outgoing: web.StreamResponse
    ) -> None:
        lasting = next((item for item in self._watch_failures if item.hits(watch.request)), None)
        if lasting is not None:
            watch.failure = lasting
            watch.broken.set()
        self._watches.add(watch)
        broken = asyncio.create_task(watch.broken.wait())
        line: asyncio.Task[bytes] | None = None
        try:
            while True:
                line = asyncio.create_task(source.readuntil(b"\n"))
                await asyncio.wait({line, broken}, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    assert watch.failure is not None
                    event = b'{"type":"ERROR","object":' + watch.failure.status() + b"}\n"
                    await outgoing.write(event)
                    return
                data = line.result()
                if not data:
                    return
                await outgoing.write(data)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # one of the ends left
        finally:
            self._watches.discard(watch)
            for task in (broken, line):
                if task is not None:
                    task.cancel()


def parse(method: str, path: str, query: dict[str, str]) -> Request:
    """What a request of the Kubernetes API is about."""
    verb = _VERBS.get(method, method.lower())
    parts = [part for part in path.split("/") if part]
    rest = parts[2:] if parts[:1] == ["api"] else parts[3:] if parts[:1] == ["apis"] else []
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, sub = (*rest[:3], "", "", "")[:3]
    if verb == "get" and resource and not name:
        verb = "watch" if query.get("watch") in ("1", "true", "True") else "list"
    elif verb == "delete" and resource and not name:
        verb = "deletecollection"
    return Request(verb, f"{resource}/{sub}" if sub else resource, namespace, name)
