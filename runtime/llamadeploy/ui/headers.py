"""Which headers pass the proxy, and which it adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from multidict import CIMultiDict
from starlette.datastructures import Headers
from yarl import URL

HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""About one connection, RFC 9110 section 7.6.1."""

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

_PATH_BYTES = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""Left as the client wrote them; anything else that is not a letter or digit is escaped."""


def upstream_url(scope: Mapping[str, Any], port: int) -> URL:
    """The same path and query, byte for byte, at the front end."""
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    target = quote(raw_path, safe=_PATH_BYTES)
    query = quote(scope["query_string"], safe=_PATH_BYTES)
    return URL(f"http://localhost:{port}{target}{'?' + query if query else ''}", encoded=True)


def request_headers(scope: Mapping[str, Any], *, drop: Iterable[str] = ()) -> CIMultiDict[str]:
    """What the front end gets: the client's headers, and from where and for which host they came.

    Args:
        drop: further names, in lower case.
    """
    given = Headers(raw=list(scope["headers"]))
    dropped = HOP_BY_HOP | _named_by_connection(given.getlist("connection")) | set(drop)
    dropped |= {"expect"}  # the server in front has answered it
    headers = CIMultiDict(
        (name, value) for name, value in given.items() if name.lower() not in dropped
    )
    clients = [each.strip() for each in given.get("x-forwarded-for", "").split(",")]
    client = (scope.get("client") or ("",))[0]
    if client not in clients:  # with a proxy in front, uvicorn has taken it from there
        clients.append(client)
    headers["X-Forwarded-For"] = ", ".join(filter(None, clients))
    host = given.get("host", "")
    headers.setdefault("X-Forwarded-Host", host)
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    headers.setdefault("X-Forwarded-Proto", scheme)
    if port := urlsplit(f"//{host}").netloc.rpartition("]")[2].partition(":")[2]:
        headers.setdefault("X-Forwarded-Port", port)
    return headers


def response_headers(
    raw: Iterable[tuple[bytes, bytes]], sent: Mapping[str, str], port: int
) -> list[tuple[bytes, bytes]]:
    """What the client gets of a response's headers.

    Args:
        sent: the request's headers, as the front end got them.
        port: the front end's; where it redirects to that by itself, the client is sent to us.
    """
    headers = [(name.lower(), value) for name, value in raw]
    connection = [value.decode("latin-1") for name, value in headers if name == b"connection"]
    dropped = HOP_BY_HOP | _named_by_connection(connection) | {"date"}  # ours has one
    return [
        (name, _public(value, sent, port) if name == b"location" else value)
        for name, value in headers
        if name.decode("latin-1") not in dropped
    ]


def _public(location: bytes, sent: Mapping[str, str], port: int) -> bytes:
    try:
        parts = urlsplit(location.decode("latin-1"))
        own = parts.hostname in _LOOPBACK_HOSTS and parts.port == port
    except ValueError:
        return location
    if not own:
        return location
    here = parts._replace(scheme=sent["X-Forwarded-Proto"], netloc=sent["X-Forwarded-Host"])
    return urlunsplit(here).encode("latin-1")


def _named_by_connection(values: Iterable[str]) -> set[str]:
    return {name.strip().lower() for value in values for name in value.split(",")}
