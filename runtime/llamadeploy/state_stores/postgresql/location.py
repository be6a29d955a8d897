"""Where the database is: the parts of a ``state_store_uri`` that are ours and those of libpq."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlunsplit

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.urls import split_url

SCHEMES = ("postgresql", "postgres")
DEFAULT_SCHEMA = "llamadeploy"
DEFAULT_POOL_SIZE = 5


@dataclass(frozen=True, slots=True)
class Location:
    """A database and how to use it.

    Attributes:
        dsn: as libpq reads it, with the password; never shown.
        name: what is shown, such as ``db.example:5432/app``.
        schema: the PostgreSQL schema that holds our tables.
        pool_size: connections of one process for operations; one more announces changes.
    """

    dsn: str = field(repr=False)
    name: str
    schema: str = DEFAULT_SCHEMA
    pool_size: int = DEFAULT_POOL_SIZE


def parse_uri(uri: str) -> Location:
    """Read ``postgresql://[user[:password]@]host[:port]/database[?schema=S&pool_size=N&sslmode=...]``.

    Raises:
        ConfigurationError: what is wrong and what would be right; without the password.
    """
    try:
        parts = split_url(uri)
        address = f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    except ValueError as error:
        raise ConfigurationError(f"state_store_uri: {error}; {_RIGHT}") from None
    if parts.scheme not in SCHEMES or not parts.path.strip("/"):
        raise ConfigurationError(f"state_store_uri names no database; {_RIGHT}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = options.pop("schema", DEFAULT_SCHEMA)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
        raise ConfigurationError(
            f"state_store_uri: schema is '{schema}'; it must be letters, digits and '_', at most 63"
        )
    size = options.pop("pool_size", str(DEFAULT_POOL_SIZE))
    if not size.isdecimal() or not 1 <= int(size) <= 100:
        raise ConfigurationError(f"state_store_uri: pool_size is '{size}'; it must be 1 to 100")
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options), ""))
    return Location(dsn, address, schema, int(size))


_RIGHT = "write postgresql://user:password@host:5432/database"
