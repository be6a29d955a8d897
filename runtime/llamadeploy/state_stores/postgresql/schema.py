"""The tables and functions, and how a database of an older release becomes one of this release."""

from __future__ import annotations

from importlib.resources import files

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.state_stores.postgresql.connection import Connection
from llamadeploy.state_stores.postgresql.location import Location

MIGRATIONS: tuple[str, ...] = (
    "tables.sql",
    "custody.sql",
    "forget.sql",
    "followers.sql",
    "resend.sql",
    "shorter.sql",
    "lookups.sql",
)
"""Script ``n`` brings tables of version ``n`` to version ``n + 1``; append, never change one."""

FUNCTIONS = (
    "rules.sql",
    "executions.sql",
    "tasks.sql",
    "sessions.sql",
    "repair.sql",
    "batch.sql",
)
"""Written anew with every migration. Whoever changes one appends a migration (an empty one will
do), because the version is what tells whether a database has them."""

VERSION = len(MIGRATIONS)

MIGRATION_LOCK = 0x6C6C616D61646570
"""Key of the advisory lock under which one process migrates and the others wait."""


async def migrate(location: Location, connection: Connection) -> None:
    """Bring the schema to ``VERSION``, in one transaction; others may do the same.

    Raises:
        ConfigurationError: it was written by a newer release, or holds another program's tables.
    """
    if await _version(location, connection) == VERSION:
        return
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        version = await _version(location, connection)
        if version == VERSION:
            return
        if version == 0:
            await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{location.schema}"')
            await connection.execute("CREATE TABLE schema_version (version integer NOT NULL)")
            await connection.execute("INSERT INTO schema_version VALUES (0)")
        for name in (*MIGRATIONS[version:], *FUNCTIONS):
            await connection.execute(script(name))
        await connection.execute("UPDATE schema_version SET version = $1", VERSION)


def script(name: str) -> str:
    """The text of an SQL file of this package."""
    return files(__package__).joinpath("sql", name).read_text()


async def _version(location: Location, connection: Connection) -> int:
    names = {
        row[0]
        for row in await connection.fetch(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = $1", location.schema
        )
    }
    if "schema_version" not in names:
        if names:
            raise ConfigurationError(
                f"state store {location.name}: the schema '{location.schema}' holds tables of "
                f"something else (such as '{min(names)}'); name another with ?schema="
            )
        return 0
    version = int(await connection.fetchval("SELECT version FROM schema_version"))
    if version > VERSION:
        raise ConfigurationError(
            f"state store {location.name}: its schema version {version} is newer than {VERSION}, "
            "the newest that this release knows; run the newer release, or name another database"
        )
    return version
