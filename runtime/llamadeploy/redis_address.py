"""Where a Redis is, and connections to it: one server, a Sentinel's master, or a Cluster's node.

The URIs are redis-py's, with its query options; ours are ``sentinel=<name of the master>`` and
``cluster=true``, and several ``host:port`` separated by commas may stand where they are given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from llamadeploy.exceptions import ConfigurationError, MissingExtraError
from llamadeploy.urls import split_url

if TYPE_CHECKING:
    from redis.asyncio.cluster import RedisCluster
    from redis.asyncio.connection import AbstractConnection

SCHEMES = ("redis", "rediss", "unix")

CONNECT_SECONDS = 5.0
"""How long a connection may take, with its login."""

_FORMS = (
    "redis://[user:password@]host[:port][/db], rediss://... for TLS, unix:///path/to/socket?db=0; "
    "redis://host:26379,other:26379/0?sentinel=NAME; redis://host,other?cluster=true"
)


class RedisAddress:
    """A parsed URI.

    Args:
        uri: see the module.
        what: who asks, for error messages: ``"state store"``, ``"message queue"``.

    Raises:
        ConfigurationError: the URI is wrong; its password is not shown.
        MissingExtraError: redis-py is not installed.
    """

    def __init__(self, uri: str, what: str) -> None:
        self._what = what
        _check_installed(what)
        try:
            self._read(uri)
        except ValueError as error:
            raise ConfigurationError(f"{what} URI: {error}; it must be {_FORMS}") from None

    def __repr__(self) -> str:
        return f"RedisAddress({self.shown!r})"

    def _read(self, uri: str) -> None:
        from redis.asyncio.connection import parse_url

        parts = split_url(uri)
        if parts.scheme not in SCHEMES:
            raise ValueError("its scheme is unknown")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.sentinel = options.pop("sentinel", None)
        self.cluster = _truth("cluster", options.pop("cluster", "false"))
        if self.sentinel is not None and self.cluster:
            raise ValueError("sentinel and cluster exclude each other")
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        login, at, hosts = parts.netloc.rpartition("@")
        default = 26379 if self.sentinel else 6379
        self.hosts = [_host(text, default) for text in hosts.split(",")] if hosts else []
        if parts.scheme == "unix" and (self.sentinel or self.cluster or not parts.path):
            raise ValueError("a socket has a path, and no sentinel or cluster")
        if parts.scheme != "unix" and not self.hosts:
            raise ValueError("it names no host")
        if len(self.hosts) > 1 and not (self.sentinel or self.cluster):
            raise ValueError("several hosts need ?sentinel=NAME or ?cluster=true")
        if parts.scheme != "unix" and not parts.path.strip("/").isdecimal() and parts.path[1:]:
            raise ValueError(f"database {parts.path[1:]!r} is no number")
        if self.cluster and parts.path.strip("/") not in ("", "0"):
            raise ValueError("a cluster has only database 0")
        first = f"{login}{at}{hosts.split(',')[0]}"
        plain = urlunsplit((parts.scheme, first, parts.path, urlencode(options), ""))
        self.options: dict[str, Any] = dict(parse_url(plain))
        self._check_options(options)
        self.connection_class: Callable[..., AbstractConnection] = self._connection_class()
        # Reads have no time limit of redis-py's: whoever reads sets one, or wants none.
        self.options["socket_timeout"] = None
        self.options.setdefault("socket_connect_timeout", CONNECT_SECONDS)
        self.options.setdefault("socket_keepalive", True)
        self.options["protocol"] = 2
        if parts.scheme == "unix":
            self.options.pop("socket_keepalive")

    def _check_options(self, given: dict[str, str]) -> None:
        import inspect

        from redis.asyncio import connection

        known: set[str] = set()
        for kind in (
            connection.Connection,
            connection.SSLConnection,
            connection.AbstractConnection,
        ):
            known |= set(inspect.signature(kind.__init__).parameters)
        for name in given:
            if name not in known | {"db"}:
                raise ValueError(f"unknown option {name!r}")

    def _connection_class(self) -> Any:
        from redis.asyncio.connection import Connection

        return self.options.pop("connection_class", Connection)

    async def connect(self, key: str) -> AbstractConnection:
        """A new connection to the server that has ``key``.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: not now.
        """
        import asyncio

        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await self._make(key)
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            return connection

    async def _make(self, key: str) -> AbstractConnection:
        if self.sentinel is not None:
            host, port = await self._master(self.sentinel)
            return self._connection(host=host, port=port)
        if self.cluster:
            host, port = await self._node(key)
            return self._connection(host=host, port=port)
        return self._connection()

    def _connection(self, **where: Any) -> AbstractConnection:
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        return self.connection_class(
            **{**self.options, **where}, retry=Retry(NoBackoff(), 0), driver_info=None
        )

    async def _master(self, name: str) -> tuple[str, int]:
        from redis.asyncio.sentinel import Sentinel

        options = {k: v for k, v in self.options.items() if k not in ("host", "port", "db")}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self.hosts, sentinel_kwargs={**options, "socket_timeout": 1.0}
        )
        try:
            host, port = await sentinel.discover_master(name)
            return str(host), int(port)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()

    async def nodes(self) -> list[RedisAddress]:
        """An address for each server that has keys: this one, or those of a Cluster's masters.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: not now.
        """
        if not self.cluster:
            return [self]
        async with self._cluster() as cluster:
            return [self._at(str(node.host), int(node.port)) for node in cluster.get_primaries()]

    def _at(self, host: str, port: int) -> RedisAddress:
        node = copy(self)
        node.cluster = False
        node.options = {**self.options, "host": host, "port": port}
        return node

    async def _node(self, key: str) -> tuple[str, int]:
        async with self._cluster() as cluster:
            node = cluster.get_node_from_key(key)
            if node is None:
                raise ConnectionError(f"no node of the cluster has the slot of {key!r}")
            return str(node.host), int(node.port)

    @asynccontextmanager
    async def _cluster(self) -> AsyncIterator[RedisCluster]:
        from redis.asyncio.cluster import ClusterNode, RedisCluster
        from redis.asyncio.connection import SSLConnection

        options = {
            k: v
            for k, v in self.options.items()
            if k in ("username", "password") or k.startswith("ssl_")
        }
        cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self.hosts],
            ssl=self.connection_class is SSLConnection,
            require_full_coverage=False,
            **options,
        )
        try:
            await cluster.initialize()
            yield cluster
        finally:
            await cluster.aclose()


def _check_installed(what: str) -> None:
    try:
        import redis.asyncio  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"the redis {what}", "redis") from None


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(f"{name} is {text!r}, and must be true or false")
    return text.lower() in ("true", "1", "yes")


def _host(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("it names no host")
    return unquote(parts.hostname), parts.port or default
