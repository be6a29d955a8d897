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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder, with the source."""
    return tmp_path_factory.mktemp("versioned")


@pytest.fixture(scope="module")
def deployed(server: Any, folder: Path) -> Any:
    """The module's server with ``reloaded``, which runs service ``version`` from ``folder``."""
    write(folder, "zero")
    reply = server.create(server.deployment("reloaded", "version"), folder)
    assert reply.status == 200, reply
    return server


@pytest.fixture
def versioned(deployed: Any, folder: Path) -> Any:
    """The same, with version ``one`` running."""
    if deployed.run("reloaded").body != "one":
        write(folder, "one")
        file = deployed.deployment("reloaded", "version")
        assert deployed.create(file, folder, reload=True).status == 200
    return deployed


def write(folder: Path, version: str) -> None:
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src" / "workflow.py").write_text(textwrap.dedent(CODE.format(version=version)))


def test_reload_runs_the_new_code(versioned: Any, folder: Path) -> None:
    file = versioned.deployment("reloaded", "version")
    assert versioned.run("reloaded").body == "one"
    generation = versioned.details("reloaded")["generation"]
    write(folder, "two")
    assert versioned.run("reloaded").body == "one"  # a copy runs, not the user's folder
    assert versioned.create(file, folder, reload=True).body == {"name": "reloaded"}
    assert {versioned.run("reloaded").body for _ in range(10)} == {"two"}
    details = versioned.details("reloaded")
    assert (details["generation"], details["state"]) == (generation + 1, "ready")
    work = versioned.data_dir / "reloaded" / "work"
    assert [path.name for path in work.iterdir()] == [str(generation + 1)]


def test_a_bad_version_leaves_the_old_one_serving(versioned: Any, folder: Path) -> None:
    file = versioned.deployment("reloaded", "version", version={"session-policy": "parallel"})
    generation = versioned.details("reloaded")["generation"]
    (folder / "src" / "workflow.py").write_text("version = 1 / 0\n")
    reply = versioned.create(file, folder, reload=True)
    assert reply.status == 400
    assert "ZeroDivisionError" in reply.detail
    assert versioned.run("reloaded").body == "one"
    details = versioned.details("reloaded")
    assert (details["generation"], details["state"]) == (generation, "ready")
    assert "ZeroDivisionError" in details["last_deploy_error"]
    work = versioned.data_dir / "reloaded" / "work"
    assert [path.name for path in work.iterdir()] == [str(generation)]


def test_services_and_the_default_may_change(versioned: Any, folder: Path) -> None:
    write(folder, "two")
    file = versioned.deployment(
        "reloaded", "renamed", renamed={"path": "src/workflow:version", "replicas": 2}
    )
    assert versioned.create(file, folder, reload=True).status == 200
    assert versioned.run("reloaded").body == "two"
    assert versioned.service("reloaded", "renamed")["ready_replicas"] == 2
    assert versioned.run("reloaded", "version").status == 404
    port = versioned.details("reloaded")["control_plane"]["port"]
    assert list(versioned.get(f"http://127.0.0.1:{port}/services").body) == ["renamed"]


def test_what_a_reload_cannot_change_is_named(versioned: Any, folder: Path) -> None:
    file = versioned.deployment("reloaded", "version")
    file["control-plane"] = {"state_store_uri": "memory://"}
    reply = versioned.create(file, folder, reload=True)
    assert reply.status == 400
    assert "control-plane: a reload cannot change state_store_uri" in reply.detail
    assert versioned.run("reloaded").body == "one"


def test_no_request_fails_while_it_reloads(versioned: Any, folder: Path) -> None:
    file = versioned.deployment("reloaded", "version")
    stop, replies = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            replies.append(versioned.run("reloaded"))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for version in ("two", "three"):
        write(folder, version)
        assert versioned.create(file, folder, reload=True).status == 200
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
