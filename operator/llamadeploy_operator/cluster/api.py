"""One HTTP connection pool to the API server, with every time-out set and every error typed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from llamadeploy_operator.cluster.kinds import Kind

#: Seconds for one call, from the first byte sent to the last received.
CALL_TIMEOUT = 15.0
#: Seconds until a TCP connection (with TLS) must stand.
CONNECT_TIMEOUT = 5.0

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

Json = dict[str, Any]


class ApiError(Exception):
    """The API server refused, or could not be reached.

    ``status`` is the HTTP status (0 without an answer), ``reason`` Kubernetes' own word
    (``NotFound``, ``Conflict``, ``Invalid``), ``message`` what it says to people.
    """

    def __init__(self, status: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        return self.status == 409

    @property
    def permanent(self) -> bool:
        """Whether the same request will be refused again: what was sent is wrong."""
        return self.status in (400, 413, 415, 422) or self.mistyped

    @property
    def mistyped(self) -> bool:
        """Whether an applied manifest has an unknown field or a value of the wrong type: the API
        server calls that an internal error."""
        return self.status == 500 and self.message.startswith(
            ("failed to create typed patch object", "failed to convert new object")
        )


class NotLeading(BaseException):
    """A write was about to be sent without a valid lease; the process must end.

    Not an ``Exception``: nothing may take it for a failure of one object and carry on.
    """


class Api:
    """Calls of the Kubernetes API with JSON in and out.

    ``may_write`` is asked before everything that changes something; a leader whose lease ran out
    while its process was stopped must not write when it wakes up.
    """

    def __init__(
        self, configuration: Configuration, *, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        self.configuration = configuration
        self.may_write = may_write
        self._client = ApiClient(configuration=configuration)
        self._client.user_agent = "llamadeploy-operator"

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: Kind, namespace: str | None, name: str, **query: str) -> Json:
        """One object. Raises: ApiError (``not_found`` when it is definitely not there)."""
        return await self.request("GET", kind.path(namespace, name), query=query)

    async def list(self, kind: Kind, namespace: str | None = None, **query: str) -> Json:
        """A collection; ``namespace=None`` means all of them."""
        return await self.request("GET", kind.path(namespace), query=query)

    async def create(self, kind: Kind, namespace: str, body: Json, **query: str) -> Json:
        return await self.request("POST", kind.path(namespace), body=body, query=query)

    async def apply(
        self, kind: Kind, namespace: str, body: Json, *, manager: str, sub: str = "", **query: str
    ) -> Json:
        """Server-side apply with force: fields we state are ours, all others stay as they are."""
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"} | query
        path = kind.path(namespace, body["metadata"]["name"], sub)
        return await self.request("PATCH", path, body=body, query=query, content_type=APPLY)

    async def merge_patch(
        self, kind: Kind, namespace: str, name: str, body: Json, *, sub: str = "", **query: str
    ) -> Json:
        path = kind.path(namespace, name, sub)
        return await self.request("PATCH", path, body=body, query=query, content_type=MERGE_PATCH)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete that very object (``uid``) in the background; done too when it is gone."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self.request("DELETE", kind.path(namespace, name), body=body)
        except ApiError as error:
            if not error.not_found and not error.conflict:
                raise

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float = CALL_TIMEOUT,
    ) -> Json:
        """Call and decode. Raises: ApiError, NotLeading."""
        raw = await self.raw(
            method,
            path,
            body=body,
            query=query,
            content_type=content_type,
            accept=accept,
            timeout=timeout,
        )
        decoded: Json = msgspec.json.decode(raw)
        return decoded

    async def raw(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float = CALL_TIMEOUT,
    ) -> bytes:
        """Call and return the body as it came."""
        if method != "GET" and not self.may_write():
            raise NotLeading(f"{method} {path}")
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
        try:
            response = await self._send(method, path, body, query, content_type, accept, limits)
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {error!r}") from error
        if response.status >= 300:
            raise _refusal(response.status, response.reason or "", data)
        return data

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str], accept: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a watch; the caller bounds how long it waits for each line."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        response = await self._send("GET", path, None, query, JSON, accept, limits)
        try:
            if response.status >= 300:
                raise _refusal(response.status, response.reason or "", await response.read())
            yield response
        finally:
            response.close()

    async def _send(
        self,
        method: str,
        path: str,
        body: Json | None,
        query: Mapping[str, str] | None,
        content_type: str,
        accept: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        # Not by param_serialize: it copies every body in search of dates and models.
        headers = self._client.default_headers | {"Accept": accept, "Content-Type": content_type}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self.configuration.host + path
        if query:
            url += "?" + urlencode(query)
        answer = await self._client.rest_client.request(  # type: ignore[no-untyped-call]
            method, url, headers=headers, body=body, _request_timeout=limits
        )
        response: aiohttp.ClientResponse = answer.response
        return response


def _refusal(status: int, reason: str, data: bytes) -> ApiError:
    """The error in a ``Status`` body, or what HTTP says where there is none."""
    try:
        body = json.loads(data)
        return ApiError(
            status,
            body.get("reason") or reason,
            body.get("message") or reason,
            body.get("details"),
        )
    except (ValueError, AttributeError):
        return ApiError(status, reason, data[:200].decode(errors="replace"))


async def connect(*, pool: int = 32) -> Api:
    """An API client from the pod's service account, or from ``KUBECONFIG`` outside a cluster."""
    configuration = Configuration()
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        kube_config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    else:
        await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    configuration.connection_pool_maxsize = pool
    # aiohttp would ask the environment and ~/.netrc before each request, in a thread.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.proxy = configuration.proxy or _proxy_for(configuration.host)
    # No retries inside the client: the queue retries, and a lease must see its failures at once.
    configuration.retries = None
    return Api(configuration)


def _proxy_for(url: str) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY say for a URL."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def own_namespace() -> str | None:
    """The namespace of the pod we run in, or ``None`` outside a cluster."""
    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


async def watch_lines(
    response: aiohttp.ClientResponse, *, inactivity: float
) -> AsyncIterator[Json]:
    """The JSON lines of a watch. Raises: TimeoutError after ``inactivity`` silent seconds."""
    buffer = b""
    while True:
        async with asyncio.timeout(inactivity):
            chunk = await response.content.readany()
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            if line:
                yield msgspec.json.decode(line)
