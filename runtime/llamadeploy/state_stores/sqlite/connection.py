"""Opening a database, and SQLite's errors in the words of this package."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from llamadeploy.exceptions import ConfigurationError, StoreError, StoreUnavailableError
from llamadeploy.state_stores.sqlite import schema

OLDEST = (3, 35, 0)
"""The first SQLite with everything used here; also the first that ships with Python 3.11 builds."""

BUSY_SECONDS = 5.0
"""How long to wait for another process that writes to the same file."""

CHECKPOINT_PAGES = 4096
"""The log is copied into the file when it has this many pages (16 MiB)."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a database is: a file, or the process's memory (``path`` is ``None``)."""

    path: Path | None
    synchronous: str = "normal"


def parse_uri(uri: str) -> Location:
    """Read ``memory://``, ``sqlite:///relative.db`` or ``sqlite:////absolute.db?synchronous=full``.

    Raises:
        ConfigurationError: anything else; the message says what would be right.
    """
    parts = urlsplit(uri)
    if parts.scheme == "memory":
        if uri.rstrip("/") != "memory:":
            raise ConfigurationError(f"state store URI '{uri}': memory takes nothing: 'memory://'")
        return Location(None)
    path = unquote(parts.path[1:])
    if parts.netloc or not path or path.endswith("/"):
        raise ConfigurationError(
            f"state store URI '{uri}' names no file: write 'sqlite:///relative.db' or "
            "'sqlite:////absolute/path.db'"
        )
    return Location(Path(path), _synchronous(uri, parts.query))


def _synchronous(uri: str, query: str) -> str:
    options = dict(parse_qsl(query, keep_blank_values=True))
    value = options.pop("synchronous", "normal")
    if options:
        raise ConfigurationError(
            f"state store URI '{uri}': unknown option '{min(options)}'; known: synchronous"
        )
    if value not in ("normal", "full"):
        raise ConfigurationError(
            f"state store URI '{uri}': synchronous is '{value}'; it must be 'normal' or 'full'"
        )
    return value


def connect(location: Location) -> sqlite3.Connection:
    """Open for writing, bring the schema up to date.

    Raises:
        ConfigurationError: the file cannot be used; the message says why.
        StoreUnavailableError: it is locked or the disk fails.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise ConfigurationError(
            f"SQLite {sqlite3.sqlite_version} is too old: the state store needs "
            f"{'.'.join(map(str, OLDEST))} or newer (or a Python that was built with it)"
        )
    connection = _open(location, f"file:{_quoted(location)}?mode=rwc")
    try:
        with foreign_errors(location):
            if location.path is not None:
                _use_log(connection, location)
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute("PRAGMA cache_size = -16384")  # KiB
            schema.migrate(connection)
    except ConfigurationError as error:
        connection.close()
        raise ConfigurationError(f"state store '{location.path}': {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(location: Location) -> sqlite3.Connection:
    """Open a file that ``connect`` has opened before, for reading only."""
    connection = _open(location, f"file:{_quoted(location)}?mode=rw")
    connection.execute("PRAGMA query_only = ON")
    return connection


def _quoted(location: Location) -> str:
    return "" if location.path is None else location.path.absolute().as_uri()[len("file://") :]


def _open(location: Location, uri: str) -> sqlite3.Connection:
    path = location.path
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigurationError(
            f"state store '{path}': the folder '{path.absolute().parent}' does not exist"
        )
    try:
        return sqlite3.connect(
            ":memory:" if path is None else uri,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            uri=path is not None,
        )
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"state store '{path}' cannot be opened: {error}; name a file in a folder that this "
            "process may write to"
        ) from error


def _use_log(connection: sqlite3.Connection, location: Location) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigurationError(
            f"its file system does not take SQLite's write-ahead log (it has '{mode}'); name a "
            "file on a local disk"
        )
    connection.execute(f"PRAGMA synchronous = {location.synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {4 * CHECKPOINT_PAGES * 4096}")


UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""What may pass by itself or by somebody's help (space is made, a lock goes): try again later."""


def translate(location: Location, error: sqlite3.Error) -> StoreError:
    """The error in this package's words."""
    name = "memory" if location.path is None else f"'{location.path}'"
    code = getattr(error, "sqlite_errorcode", None)
    message = f"state store {name}: {error}"
    if code is not None and code & 0xFF in UNAVAILABLE:
        return StoreUnavailableError(message)
    return StoreError(message)


@contextmanager
def foreign_errors(location: Location) -> Iterator[None]:
    """Translate SQLite's errors inside the block; a file of another kind is a setting's fault."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise ConfigurationError("it is not a SQLite database; name a new file") from error
        raise translate(location, error) from error
