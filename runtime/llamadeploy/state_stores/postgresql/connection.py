"""Opening one connection, as everything here needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.state_stores.postgresql.driver import asyncpg
from llamadeploy.state_stores.postgresql.location import Location


class Connection(Protocol):
    """What is used of asyncpg's connection."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str: ...

    async def fetch(self, query: str, *args: Any) -> list[Any]: ...

    async def fetchval(self, query: str, *args: Any) -> Any: ...

    def transaction(self) -> Any: ...

    async def set_type_codec(self, typename: str, **options: Any) -> None: ...

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...

    async def remove_listener(self, channel: str, callback: Callable[..., None]) -> None: ...

    def add_termination_listener(self, callback: Callable[..., None]) -> None: ...

    def get_server_pid(self) -> int: ...

    def get_server_version(self) -> Any: ...

    def get_settings(self) -> Any: ...

    def is_closed(self) -> bool: ...

    async def close(self, *, timeout: float | None = None) -> None: ...

    def terminate(self) -> None: ...


CONNECT_SECONDS = 5.0
OPERATION_SECONDS = 10.0
"""How long an operation may take before the store counts as away."""

OLDEST_SERVER = 13

_SETTINGS = {
    "application_name": "llamadeploy",
    "default_transaction_isolation": "read committed",
    # Plans are kept; one that was made while a table was small must not scan it when it is large.
    "enable_seqscan": "off",
    # One plan per statement: making one for each set of values takes longer than running it.
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    # The client gave up long before; nothing runs on unattended.
    "statement_timeout": str(int(2 * OPERATION_SECONDS * 1000)),
}


async def connect(location: Location, **settings: str) -> Connection:
    """A new connection whose ``json`` and ``jsonb`` are bytes; ``settings`` are the server's.

    Raises:
        ConfigurationError: the URI, or a server that cannot be used.
        OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: not connected.
    """
    try:
        connection: Connection = await asyncpg.connect(
            location.dsn,
            timeout=CONNECT_SECONDS,
            server_settings={
                **_SETTINGS,
                "search_path": f'"{location.schema}", pg_catalog',
                **settings,
            },
        )
    except ValueError as error:  # asyncpg's word for an option it does not know
        raise ConfigurationError(f"state_store_uri: {error}") from error
    try:
        _check(location, connection)
        for name, write, read in (("json", bytes, bytes), ("jsonb", _versioned, _plain)):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=write, decoder=read, format="binary"
            )
    except BaseException:
        connection.terminate()
        raise
    return connection


def _versioned(text: bytes) -> bytes:
    return b"\x01" + text  # jsonb's binary form: a version, then the text


def _plain(value: Any) -> bytes:
    return bytes(value[1:])


def _check(location: Location, connection: Connection) -> None:
    major = connection.get_server_version().major
    if major < OLDEST_SERVER:
        raise ConfigurationError(
            f"state store {location.name}: PostgreSQL {major} is too old; it must be "
            f"{OLDEST_SERVER} or newer"
        )
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise ConfigurationError(
            f"state store {location.name}: the database's encoding is {encoding}; create it with "
            "ENCODING 'UTF8'"
        )
