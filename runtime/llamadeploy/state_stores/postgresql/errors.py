"""PostgreSQL's errors in the words of this package: one table, one border."""

from __future__ import annotations

from llamadeploy.exceptions import (
    ConfigurationError,
    ConflictError,
    LlamaDeployError,
    NotFoundError,
    SessionBusyError,
    StoreError,
    StoreUnavailableError,
)
from llamadeploy.state_stores.postgresql.codec import shown
from llamadeploy.state_stores.postgresql.driver import asyncpg
from llamadeploy.state_stores.postgresql.location import Location

OURS: dict[str, type[LlamaDeployError]] = {
    "LD404": NotFoundError,
    "LD409": ConflictError,
    "LD423": SessionBusyError,
}
"""Codes that our functions raise."""

REPEAT = frozenset({"40001", "40P01"})
"""Serialisation failure and deadlock: nothing was done, do it again."""

UNAVAILABLE = ("08", "25006", "53", "55P03", "57", "58")
"""Codes (or their beginnings) of what may pass: connections, a standby, resources, shutdown."""

MISCONFIGURED = ("28", "3D000", "42501")
"""At the opening: login refused, no such database, no right to create our tables."""


_LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # used in the moment in which the server ends the connection
    asyncpg.PostgresConnectionError,
)


def sqlstate(error: BaseException) -> str:
    """The error's code, empty where it is not the server's."""
    return getattr(error, "sqlstate", None) or ""


def lost_connection(error: BaseException) -> bool:
    """Whether the connection is (or may be) unusable: nobody knows whether the statement ran."""
    if isinstance(error, _LOST):
        return True
    return sqlstate(error).startswith("57P")


def translate(location: Location, error: BaseException, *, opening: bool = False) -> Exception:
    """The error to raise instead of one of asyncpg's or the system's."""
    code = sqlstate(error)
    if code in OURS:
        return OURS[code](shown(str(error)))
    text = str(error) or type(error).__name__
    message = f"state store {location.name}: {text}"
    if opening and code.startswith(MISCONFIGURED):
        return ConfigurationError(message)
    if lost_connection(error) or code.startswith(UNAVAILABLE) or code in REPEAT:
        return StoreUnavailableError(message)
    return StoreError(message)


CAUGHT = (OSError, TimeoutError, asyncpg.PostgresError, *_LOST)
"""What a connection raises."""
