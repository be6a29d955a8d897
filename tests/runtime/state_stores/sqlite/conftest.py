"""A SQLite store in a file, with its insides reachable."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.state_stores.sqlite import store as store_module
from llamadeploy.state_stores.sqlite.connection import Location, connect
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The writing connections that are opened from now on."""
    opened: list[sqlite3.Connection] = []

    def remember(location: Location) -> sqlite3.Connection:
        opened.append(connect(location))
        return opened[-1]

    monkeypatch.setattr(store_module, "connect", remember)
    return opened


@pytest.fixture
async def store(
    path: Path, connections: list[sqlite3.Connection]
) -> AsyncIterator[SQLiteStateStore]:
    opened = await SQLiteStateStore.open(f"sqlite:///{path}", "ns")
    yield opened
    await opened.aclose()


@pytest.fixture
def traced(store: SQLiteStateStore, connections: list[sqlite3.Connection]) -> Callable[[], Any]:
    """Start to collect the statements that the store's writer runs; returns the list."""

    def start() -> list[str]:
        statements: list[str] = []
        connections[0].set_trace_callback(statements.append)
        return statements

    return start
