"""The file: its version, its neighbours, its durability."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.state_stores.records import NewTask
from llamadeploy.state_stores.sqlite import schema
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore


async def opened(path: Path, options: str = "") -> SQLiteStateStore:
    return await SQLiteStateStore.open(f"sqlite:///{path}{options}", "ns")


def query(path: Path, sql: str) -> Any:
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def test_the_version_is_in_the_file_and_a_second_opening_keeps_the_rest(path: Path) -> None:
    store = await opened(path)
    await store.create_session("s")
    await store.aclose()
    assert query(path, "SELECT version FROM schema_version") == [(schema.VERSION,)]
    store = await opened(path)
    assert await store.get_session("s") is not None
    await store.aclose()


async def test_a_newer_file_is_refused_and_not_touched(path: Path) -> None:
    await (await opened(path)).aclose()
    query(path, "UPDATE schema_version SET version = 999")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"state\.db.*version 999 is newer than"):
        await opened(path)
    assert path.read_bytes() == before


async def test_an_older_file_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(path)
    await store.create_session("s")
    await store.aclose()
    later = (*schema.MIGRATIONS, "CREATE TABLE later (a);\nINSERT INTO later VALUES (1);")
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    monkeypatch.setattr(schema, "VERSION", len(later))
    for _ in range(2):
        store = await opened(path)
        assert await store.get_session("s") is not None
        await store.aclose()
    assert query(path, "SELECT * FROM later") == [(1,)]


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await opened(path)).aclose()
    broken = (*schema.MIGRATIONS, "CREATE TABLE later (a);\nINSERT INTO nowhere VALUES (1);")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        patch.setattr(schema, "VERSION", len(broken))
        with pytest.raises(Exception, match="nowhere"):
            await opened(path)
    await (await opened(path)).aclose()
    assert query(path, "SELECT name FROM sqlite_master WHERE name = 'later'") == []


async def test_another_programs_database_is_refused(path: Path) -> None:
    query(path, "CREATE TABLE customers (a)")
    with pytest.raises(ConfigurationError, match=r"something else.*'customers'"):
        await opened(path)
    assert query(path, "SELECT name FROM sqlite_master") == [("customers",)]


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("not a database " * 1000)
    with pytest.raises(ConfigurationError, match="not a SQLite database"):
        await opened(path)
    assert path.read_text().startswith("not a database")


async def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await opened(path)


@pytest.mark.parametrize(("options", "level"), [("", 1), ("?synchronous=full", 2)])
async def test_durability_is_an_option(
    path: Path, options: str, level: int, connections: list[sqlite3.Connection]
) -> None:
    store = await opened(path, options)
    await store.ping()
    assert connections[0].execute("PRAGMA synchronous").fetchone() == (level,)
    assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.aclose()


async def test_everything_survives_a_restart(path: Path) -> None:
    store = await opened(path)
    task = NewTask(task_id="t", session_id="s", service="echo", input="{}", new_session=True)
    await store.create_task(task)
    await store.merge_session_state("s", {"k": 1})
    await store.append_inbound("t", "e")
    before = await store.get_task("t"), await store.get_session("s"), await store.counts()
    await store.aclose()
    assert not path.with_name("state.db-wal").exists(), "the log was folded into the file"
    store = await opened(path)
    assert (await store.get_task("t"), await store.get_session("s"), await store.counts()) == before
    await store.aclose()
