"""Reload: new code runs, a bad version changes nothing, no request finds nobody."""

from __future__ import annotations

import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

CODE = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Version(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="{version}")

version = Version()
"""


@pytest.fixture
def versioned(server: Any, tmp_path: Path) -> Any:
    """``version`` deployed from ``tmp_path``; deleted afterwards."""
    write(tmp_path, "one")
    reply = server.create(server.deployment("reloaded", "version"), tmp_path)
    assert reply.status == 200, reply
    yield server
    server.request("DELETE", "/deployments/reloaded")


def write(folder: Path, version: str) -> None:
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src" / "workflow.py").write_text(textwrap.dedent(CODE.format(version=version)))


def test_reload_runs_the_new_code(versioned: Any, tmp_path: Path) -> None:
    file = versioned.deployment("reloaded", "version")
    assert versioned.run("reloaded").body == "one"
    write(tmp_path, "two")
    assert versioned.run("reloaded").body == "one"  # a copy runs, not the user's folder
    assert versioned.create(file, tmp_path, reload=True).body == {"name": "reloaded"}
    assert {versioned.run("reloaded").body for _ in range(10)} == {"two"}
    details = versioned.details("reloaded")
    assert (details["generation"], details["state"]) == (2, "ready")
    work = versioned.data_dir / "reloaded" / "work"
    assert [path.name for path in work.iterdir()] == ["2"]


def test_a_bad_version_leaves_the_old_one_serving(versioned: Any, tmp_path: Path) -> None:
    file = versioned.deployment("reloaded", "version", version={"session-policy": "parallel"})
    (tmp_path / "src" / "workflow.py").write_text("version = 1 / 0\n")
    reply = versioned.create(file, tmp_path, reload=True)
    assert reply.status == 400
    assert "ZeroDivisionError" in reply.detail
    assert versioned.run("reloaded").body == "one"
    details = versioned.details("reloaded")
    assert (details["generation"], details["state"]) == (1, "ready")
    assert "ZeroDivisionError" in details["last_deploy_error"]
    work = versioned.data_dir / "reloaded" / "work"
    assert [path.name for path in work.iterdir()] == ["1"]


def test_services_and_the_default_may_change(versioned: Any, tmp_path: Path) -> None:
    write(tmp_path, "two")
    file = versioned.deployment(
        "reloaded", "renamed", renamed={"path": "src/workflow:version", "replicas": 2}
    )
    assert versioned.create(file, tmp_path, reload=True).status == 200
    assert versioned.run("reloaded").body == "two"
    assert versioned.service("reloaded", "renamed")["ready_replicas"] == 2
    assert versioned.run("reloaded", "version").status == 404
    port = versioned.details("reloaded")["control_plane"]["port"]
    assert list(versioned.get(f"http://127.0.0.1:{port}/services").body) == ["renamed"]


def test_what_a_reload_cannot_change_is_named(versioned: Any, tmp_path: Path) -> None:
    file = versioned.deployment("reloaded", "version")
    file["control-plane"] = {"state_store_uri": "memory://"}
    reply = versioned.create(file, tmp_path, reload=True)
    assert reply.status == 400
    assert "control-plane: a reload cannot change state_store_uri" in reply.detail
    assert versioned.run("reloaded").body == "one"


def test_no_request_fails_while_it_reloads(versioned: Any, tmp_path: Path) -> None:
    file = versioned.deployment("reloaded", "version")
    stop, replies = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            replies.append(versioned.run("reloaded"))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for version in ("two", "three"):
        write(tmp_path, version)
        assert versioned.create(file, tmp_path, reload=True).status == 200
    stop.set()
    for client in clients:
        client.join(30)
    assert {reply.status for reply in replies} == {200}
    assert {reply.body for reply in replies} <= {"one", "two", "three"}
    assert versioned.run("reloaded").body == "three"


def test_tasks_of_a_removed_service_end(versioned: Any, project: Path) -> None:
    file = versioned.deployment("removing", "echo", "ask")
    assert versioned.create(file, project).status == 200
    waiting = versioned.start_task("removing", "ask")
    file = versioned.deployment("removing", "echo")
    assert versioned.create(file, project, reload=True).status == 200
    result = versioned.result("removing", waiting)
    assert result["data"]["state"] == "cancelled"
    assert "service 'ask' was removed" in str(result)
    assert versioned.run("removing", text="x").body == "v1 x"
    versioned.request("DELETE", "/deployments/removing")
