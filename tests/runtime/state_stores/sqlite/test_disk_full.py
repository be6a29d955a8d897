"""A full disk is an error to the caller, never a hang, and it passes when there is room again."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llamadeploy.exceptions import StoreUnavailableError
from llamadeploy.state_stores.records import NewTask
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore


def large(task_id: str) -> NewTask:
    return NewTask(
        task_id=task_id, session_id=task_id, service="e", input="x" * 50_000, new_session=True
    )


async def test_full_and_free_again(
    store: SQLiteStateStore, connections: list[sqlite3.Connection]
) -> None:
    (pages,) = connections[0].execute("PRAGMA page_count").fetchone()
    connections[0].execute(f"PRAGMA max_page_count = {pages + 40}")
    accepted: list[str] = []
    with pytest.raises(StoreUnavailableError, match="full"):
        for number in range(100):
            await store.create_task(large(f"t{number}"))
            accepted.append(f"t{number}")
    assert accepted
    many = await asyncio.gather(
        *(store.create_task(large(f"m{n}")) for n in range(10)), return_exceptions=True
    )
    assert all(isinstance(reply, StoreUnavailableError) for reply in many)
    assert [task.task_id for task in await store.list_tasks()] == accepted
    assert [s.session_id for s in await store.list_sessions()] == sorted(accepted)
    connections[0].execute(f"PRAGMA max_page_count = {pages + 10_000}")
    await store.create_task(large("after"))
    assert connections[0].execute("PRAGMA integrity_check").fetchall() == [("ok",)]


LIMITED = """
import asyncio, resource, sys
sys.path[:0] = [sys.argv[2]]
from llamadeploy.exceptions import StoreUnavailableError
from llamadeploy.state_stores.records import NewTask
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore

async def main():
    store = await SQLiteStateStore.open(f"sqlite:///{sys.argv[1]}", "ns")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    accepted = []
    try:
        for number in range(1000):
            await store.create_task(NewTask(
                task_id=f"t{number}", session_id=f"s{number}", service="e",
                input="x" * 50_000, new_session=True))
            accepted.append(f"t{number}")
    except StoreUnavailableError as error:
        print("refused", len(accepted), flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.create_task(NewTask(
        task_id="after", session_id="after", service="e", input="{}", new_session=True))
    assert [t.task_id for t in await store.list_tasks()] == [*accepted, "after"]
    await store.aclose()
    print("recovered", flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY,
    reason="the file size is limited from outside",
)
async def test_writes_that_the_kernel_refuses(path: Path) -> None:
    runtime = Path(__file__).parents[4] / "runtime"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(runtime)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    refused, recovered = done.stdout.splitlines()
    assert refused.startswith("refused ")
    assert int(refused.split()[1]) > 5
    assert recovered == "recovered"
