"""Nothing outside the data directory is ever written or deleted, whatever names clients send."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

BAD_NAMES = [
    "../victim", "..", ".", "/tmp/victim", "a/b", "a\\b", "..\\victim", "a\0b", "a\n", "\n", "",
    "%2e%2e", "..%2fvictim", "~", "~root", "$HOME", "a b", "\u2024\u2024/victim", "\uff0e\uff0e",
    "-rf", ".lock", ".llamadeploy", "x" * 300,
]  # fmt: skip


def tree(folder: Path) -> dict[str, Any]:
    """Every file with its content, every link with its target, below a folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture(scope="module")
def place(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server whose data directory lies beside a ``victim``."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "victim" / "work").mkdir(parents=True)
    (folder / "victim" / "precious.txt").write_text("precious")
    (folder / "victim" / "deployment.json").write_text("{}")
    (folder / "project" / "src").mkdir(parents=True)
    (folder / "project" / "src" / "workflow.py").write_text(
        "from workflows import Workflow, step\n"
        "from workflows.events import StartEvent, StopEvent\n"
        "class Echo(Workflow):\n"
        "    @step\n"
        "    async def run_(self, ev: StartEvent) -> StopEvent:\n"
        "        return StopEvent(result='ok')\n"
        "echo = Echo()\n"
    )
    server = start_server(folder / "server" / "data")
    server.project = folder / "project"
    server.victim = folder / "victim"
    server.place = folder
    return server


@pytest.fixture
def untouched(place: Any) -> Any:
    """The test may change nothing outside the server's own folder."""
    before = {name: tree(place.place / name) for name in ("victim", "project")}
    beside = sorted(path.name for path in (place.place / "server").iterdir())
    yield
    assert {name: tree(place.place / name) for name in before} == before
    assert sorted(path.name for path in place.place.iterdir()) == ["project", "server", "victim"]
    assert sorted(path.name for path in (place.place / "server").iterdir()) == beside


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_deployments_name_is_no_path(place: Any, untouched: Any, name: str) -> None:
    file = place.deployment("fine", "echo") | {"name": name}
    reply = place.create(json.dumps(file), place.project)
    assert reply.status in (400, 422), reply
    assert "name" in json.dumps(reply.body)
    for query in ("reload=false", "reload=true"):
        assert query and place.create(json.dumps(file), place.project, reload=True).status >= 400
    assert not [p for p in place.data_dir.iterdir() if p.name != ".lock"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_services_name_is_no_path(place: Any, untouched: Any, name: str) -> None:
    file = place.deployment("fine", "echo")
    file["services"] = {"echo": {**file["services"]["echo"], "name": name}}
    file["default-service"] = name
    reply = place.create(json.dumps(file), place.project)
    assert reply.status in (400, 422), reply
    assert not (place.data_dir / "fine").exists()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_path_is_deleted(place: Any, untouched: Any, name: str) -> None:
    for encoded in (quote(name, safe=""), quote(quote(name, safe=""), safe=""), quote(name)):
        reply = place.request("DELETE", f"/deployments/{encoded}")
        assert reply.status in (307, 400, 404, 405), (encoded, reply)


@pytest.mark.parametrize("path", ["../../victim", "/etc", "../victim/work", "..", "src/../../x"])
def test_a_source_outside_the_base_path_changes_nothing_there(
    place: Any, untouched: Any, path: str
) -> None:
    file = place.deployment("outside", "echo")
    file["services"]["echo"]["source"]["name"] = path
    reply = place.create(file, place.project)
    assert reply.status == 400, reply
    assert not (place.data_dir / "outside").exists()


IDS = ["../../victim/precious.txt", "a/b", "..", "/etc/passwd", "a\0b", "%2e%2e%2f", "x" * 5000,
       "\ud800", "a\nb", "'; DROP TABLE tasks; --", "{}", "*"]  # fmt: skip


@pytest.fixture(scope="module")
def deployed(place: Any) -> Any:
    reply = place.create(place.deployment("ids", "echo"), place.project)
    assert reply.status == 200, reply
    place.plane = place.details("ids")["control_plane"]["url"]
    return place


@pytest.mark.parametrize("id_", IDS)
def test_ids_of_tasks_and_sessions_are_no_paths(deployed: Any, untouched: Any, id_: str) -> None:
    session = deployed.post(f"{deployed.plane}/sessions/create").body
    body = {"input": "{}", "task_id": id_, "service_id": "echo"}
    created = deployed.post(f"{deployed.plane}/sessions/{session}/tasks", body)
    assert created.status in (200, 400, 422), created
    quoted = quote(id_, safe="", errors="surrogatepass")
    for method, path in (
        ("GET", f"/sessions/{quoted}"),
        ("POST", f"/sessions/{quoted}/delete"),
        ("GET", f"/sessions/{session}/tasks/{quoted}/result"),
        ("GET", f"/deployments/ids/tasks/{quoted}"),
        ("POST", f"/deployments/ids/sessions/delete?session_id={quoted}"),
    ):
        reply = deployed.request(method, deployed.plane + path)
        assert reply.status < 500, (method, path, reply)
    assert deployed.run("ids", "echo").body == "ok"


def test_links_planted_among_our_files_are_not_followed(
    start_server: Callable[..., Any], place: Any, untouched: Any, tmp_path: Path
) -> None:
    """Workflow code runs as our user and may put links where we delete later."""
    server = start_server(tmp_path / "data")
    assert server.create(server.deployment("links", "echo"), place.project).status == 200
    root = tmp_path / "data" / "links"
    (root / "work" / "1" / "echo" / "inside").symlink_to(place.victim)
    (root / "work" / "7").symlink_to(place.victim)
    (root / "elsewhere").symlink_to(place.victim)
    reply = server.create(server.deployment("links", "echo"), place.project, reload=True)
    assert reply.status == 200, reply
    assert server.run("links", "echo").body == "ok"
    assert server.request("DELETE", "/deployments/links").status == 200
    assert not root.exists()


def test_a_deployments_folder_that_became_a_link_is_not_deleted(
    start_server: Callable[..., Any], place: Any, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    shutil.copytree(place.victim, victim)
    server = start_server(tmp_path / "data")
    assert server.create(server.deployment("moved", "echo"), place.project).status == 200
    root = tmp_path / "data" / "moved"
    root.rename(tmp_path / "kept")
    root.symlink_to(victim)
    assert server.request("DELETE", "/deployments/moved").status == 200
    assert root.is_symlink() and (tmp_path / "kept" / "state.db").exists()
    assert tree(place.victim).items() <= tree(victim).items()
