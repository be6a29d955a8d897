"""The commands of docs/backup.md give back what was there when the backup was made."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.servers import require
from workflows.events import HumanResponseEvent

from llamadeploy import TaskDefinition
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import NewTask
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import TaskState

ROOT = Path(__file__).parents[2]
Type = Callable[..., str]
NAMESPACE = "prod.shop"


async def fill(uri: str) -> None:
    """A finished task, and one that waits to be run."""
    store = await open_store(uri, NAMESPACE)
    for task in ("done", "queued"):
        await store.create_task(
            NewTask(task_id=task, session_id=task, service="s", input="{}", new_session=True)
        )
    await store.complete("done", "the result", {})
    await store.aclose()


async def check(uri: str) -> None:
    """All of it is there, and works."""
    store: StateStore = await open_store(uri, NAMESPACE)
    try:
        done, queued = await store.get_task("done"), await store.get_task("queued")
        assert done is not None and queued is not None
        assert (done.state, done.result) == (TaskState.SUCCEEDED, "the result")
        assert queued.state is TaskState.QUEUED
        assert [each.task_id for each in await store.list_tasks("queued")] == ["queued"]
        await store.create_session("new")
        await store.complete("queued", "later", {})
    finally:
        await store.aclose()


async def test_postgresql(own_postgresql: Any, type_commands: Type) -> None:
    uri = own_postgresql.uri
    await fill(uri)
    type_commands("backup.md", "sh backup-postgresql", DATABASE=uri)
    await check(uri)  # goes on: this change is not in the backup
    type_commands("backup.md", "sh restore-postgresql", NEW_DATABASE=uri)
    await check(uri)


async def test_redis(own_redis: Any, type_commands: Type, tmp_path: Path) -> None:
    await fill(own_redis.uri)
    type_commands("backup.md", "sh backup-redis", REDIS=own_redis.uri)
    own_redis.stop()
    folder = tmp_path / "new"
    folder.mkdir()
    port = own_redis.port
    type_commands("backup.md", "sh restore-redis", NEW_DIR=folder, NEW_PORT=port)
    wait_until_gone(folder / "pid")
    for file in own_redis.folder.glob("appendonlydir"):
        shutil.rmtree(file)
    shutil.copytree(folder / "appendonlydir", own_redis.folder / "appendonlydir")
    own_redis.start()
    await check(own_redis.uri)


def wait_until_gone(pid_file: Path) -> None:
    """The server removes it last."""
    command = ["timeout", "20", "bash", "-c", f"while [ -e {pid_file} ]; do sleep 0.05; done"]
    assert subprocess.run(command).returncode == 0, "the server did not end"


@pytest.mark.timeout(300)
def test_sqlite_on_a_laptop(serve: Any, type_commands: Type, tmp_path: Path) -> None:
    require("sqlite3", lambda: shutil.which("sqlite3"), "apt-get install sqlite3")
    text = (ROOT / "examples" / "human-in-the-loop" / "deployment.yaml").read_text()
    file = tmp_path / "deployment.yaml"
    file.write_text(text.replace("  name: refunds\n", "  name: hello\n"))
    data, new = tmp_path / "data", tmp_path / "restored"
    with serve(data, file) as server:
        deployment = server.deployment("hello")
        asked = deployment.tasks.create(TaskDefinition(input=json.dumps({"amount": "12 EUR"})))
        assert "Refund" in str(next(asked.events()))
        type_commands("backup.md", "sh backup-sqlite", DATA=data)
    shutil.rmtree(data)
    type_commands("backup.md", "sh restore-sqlite", DATA=data, NEW=new)
    with serve(new) as server:
        (task,) = server.deployment("hello").tasks.list()
        task.send_event(HumanResponseEvent(response="yes"), "refund")
        assert task.results(wait=30).result == "12 EUR refunded"
