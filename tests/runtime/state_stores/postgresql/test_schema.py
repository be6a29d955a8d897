"""Opening: the URI, the schema and its version."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from llamadeploy.exceptions import ConfigurationError, StoreUnavailableError
from llamadeploy.state_stores.postgresql.schema import MIGRATIONS, VERSION, script
from llamadeploy.state_stores.records import Completion, NewTask, StartRequest
from llamadeploy.state_stores.registry import open_store as open_by_scheme
from llamadeploy.types import TaskState


async def run(uri: str, statement: str) -> Any:
    connection = await asyncpg.connect(uri)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_many_that_open_at_once_create_the_tables_once(
    postgresql_server: Any, unique: str, open_store: Any
) -> None:
    uri = f"{postgresql_server.uri}?schema={unique}&pool_size=1"
    stores = await asyncio.gather(*(open_store(uri) for _ in range(5)))
    await asyncio.gather(*(store.create_session(f"s{n}") for n, store in enumerate(stores)))
    assert len(await stores[0].list_sessions()) == 5
    rows = f"SELECT array_agg(version) FROM {unique}.schema_version"
    assert await run(postgresql_server.uri, rows) == [VERSION]


async def test_a_newer_schema_is_refused(
    postgresql_server: Any, unique: str, open_store: Any
) -> None:
    uri = f"{postgresql_server.uri}?schema={unique}"
    await (await open_store(uri)).aclose()
    await run(postgresql_server.uri, f"UPDATE {unique}.schema_version SET version = version + 1")
    with pytest.raises(ConfigurationError, match=rf"version {VERSION + 1} is newer than {VERSION}"):
        await open_store(uri)


async def test_tables_of_something_else_are_left_alone(
    postgresql_server: Any, unique: str, open_store: Any
) -> None:
    await run(postgresql_server.uri, f"CREATE SCHEMA {unique} CREATE TABLE cats (id integer)")
    with pytest.raises(ConfigurationError, match=r"something else.*'cats'.*schema="):
        await open_store(f"{postgresql_server.uri}?schema={unique}")


async def test_both_schemes_open(postgresql_server: Any, unique: str) -> None:
    for scheme in ("postgresql", "postgres"):
        uri = postgresql_server.uri.replace("postgresql:", f"{scheme}:")
        store = await open_by_scheme(uri, unique)
        await store.ping()
        await store.aclose()


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("", ["names no database", "postgresql://user:password@host:5432/database"]),
        ("/db?schema=a-b", ["schema is 'a-b'", "letters, digits"]),
        ("/db?pool_size=0", ["pool_size is '0'", "1 to 100"]),
    ],
)
async def test_a_wrong_uri_says_what_would_be_right(
    rest: str, words: list[str], open_store: Any
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        await open_store(f"postgresql://user:secret@127.0.0.1:1{rest}")
    for word in words:
        assert word in str(raised.value)
    assert "secret" not in str(raised.value)


async def test_a_login_that_is_refused_names_the_server(
    postgresql_server: Any, open_store: Any
) -> None:
    uri = postgresql_server.uri.replace("postgres@", "nobody:secret@")
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:\d+.*nobody") as raised:
        await open_store(uri)
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigurationError, match='database "missing" does not exist'):
        await open_store(postgresql_server.uri.removesuffix("postgres") + "missing")


async def test_a_server_that_is_away_says_so(open_store: Any, own_postgresql: Any) -> None:
    own_postgresql.stop()
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:\d+"):
        await open_store(own_postgresql.uri.replace("postgres@", "postgres:secret@"))


async def test_a_database_of_the_first_release_is_brought_up(
    postgresql_server: Any, unique: str, open_store: Any
) -> None:
    """Its rows stay, and each operation finds the columns it needs."""
    connection = await asyncpg.connect(postgresql_server.uri)
    try:
        await connection.execute(f'CREATE SCHEMA {unique}; SET search_path = "{unique}"')
        await connection.execute(script(MIGRATIONS[0]))
        await connection.execute(
            "CREATE TABLE schema_version (version integer NOT NULL);"
            "INSERT INTO schema_version VALUES (1)"
        )
        await connection.execute("INSERT INTO sessions VALUES ($1, 's', '{}', 0, 1, 1)", unique)
        number = await connection.fetchval(
            "INSERT INTO tasks (namespace, task_id, session_id, service, state, timer, place, "
            "dispatch, body_hash, max_retries, retry_on_error, orchestrated, detached, ancestors, "
            "created_at) VALUES ($1, 'old', 's', 'echo', 'queued', 1, 1, 1, '', 3, false, false, "
            "false, '[]', 1) RETURNING id",
            unique,
        )
        await connection.execute("INSERT INTO inputs VALUES ($1, '{\"n\": 1}')", number)
    finally:
        await connection.close()
    store = await open_store(f"{postgresql_server.uri}?schema={unique}")
    await store.create_task(NewTask(task_id="next", session_id="s", service="echo", input="{}"))
    run = await store.start(StartRequest(task_id="old", execution_id="x", worker_id="w", lease=60))
    assert run.input == '{"n": 1}'
    ended = await store.finish(Completion(key=run.key, state=TaskState.SUCCEEDED, result="1"))
    assert [row.task_id for row in ended.publish] == ["next"]
    assert (await store.get_task("old")).result == "1"
