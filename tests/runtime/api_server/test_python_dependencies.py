"""Deployments with ``python-dependencies``, from the file to the result of a task."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WORKFLOW = """
import importlib.util
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Shade(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        if importlib.util.find_spec("shade") is None:
            return StopEvent(result="none")
        import shade
        return StopEvent(result=shade.version)

shade_ = Shade()
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with the source ``src``."""
    (tmp_path / "code" / "src").mkdir(parents=True)
    (tmp_path / "code" / "src" / "workflow.py").write_text(WORKFLOW)
    return tmp_path / "code"


@pytest.fixture(scope="module")
def start(
    start_server: Any, start_index: Any, make_wheel: Any, tmp_path_factory: Any
) -> Iterator[Callable[..., Any]]:
    """Start a server that installs from its ``index``, which has ``shade`` 1.0 and 2.0."""
    wheels = tmp_path_factory.mktemp("wheels")

    def start_(data_dir: Path | None = None) -> Any:
        index = start_index()
        for version in ("1.0", "2.0"):
            files = {"shade.py": f"version = {version!r}\n"}
            index.add(make_wheel(wheels, "shade", version, files))
        index.add(make_wheel(wheels, "paint", "1.0", {"paint.py": ""}))
        settings = {"LLAMADEPLOY_INDEX_URL": index.url(), "NO_PROXY": "127.0.0.1"}
        server = start_server(data_dir, env=settings)
        server.index = index
        return server

    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_")):
                patch.delenv(name)
        yield start_


@pytest.fixture(scope="module")
def server(start: Any) -> Any:
    return start()


def file(name: str, **dependencies: list[str]) -> dict[str, Any]:
    """A deployment with a service for each keyword."""
    services = {
        service: {
            "name": service,
            "source": {"type": "local", "name": "src"},
            "path": "workflow:shade_",
            "python-dependencies": items,
        }
        for service, items in dependencies.items()
    }
    return {"name": name, "control-plane": {}, "services": services}


def test_conflicting_versions_run_side_by_side(server: Any, code: Path) -> None:
    (code / "src" / "requirements.txt").write_text("shade==2.0\n")
    deployment = file("sides", old=["shade==1.0"], new=["-r requirements.txt"], bare=[])
    reply = server.create(deployment, code)
    assert reply.status == 200, reply
    words = {name: server.run("sides", name).body for name in ("old", "new", "bare")}
    assert words == {"old": "1.0", "new": "2.0", "bare": "none"}
    keys = {name: server.service("sides", name)["environment"] for name in words}
    assert keys["bare"] is None
    assert len({*keys.values()}) == 3


def test_a_reload_and_a_restart_ask_for_nothing(start: Any, code: Path) -> None:
    server = start()
    deployment = file("offline", echo=["shade==1.0"])
    assert server.create(deployment, code).status == 200
    server.index.requests.clear()
    (code / "src" / "workflow.py").write_text(WORKFLOW.replace("shade.version", "'again'"))
    reply = server.create(deployment, code, reload=True)
    assert reply.status == 200, reply
    assert server.run("offline", "echo").body == "again"
    server.stop()
    second = start(server.data_dir)
    second.wait_until(lambda: second.run("offline", "echo").body == "again", "it is back")
    assert server.index.requests == second.index.requests == []
    second.stop()


def test_a_reload_with_another_version_runs_it(server: Any, code: Path) -> None:
    assert server.create(file("moves", echo=["shade<2"]), code).status == 200
    assert server.create(file("moves", echo=["shade>=2"]), code, reload=True).status == 200
    assert server.run("moves", "echo").body == "2.0"


def test_a_failed_install_says_why_and_changes_nothing(server: Any, code: Path) -> None:
    reply = server.create(file("fails", echo=["shade==9.9"]), code)
    assert reply.status == 400
    assert "services.echo.python-dependencies: " in reply.detail
    assert "shade==9.9" in reply.detail
    assert not (server.data_dir / "fails").exists()
    assert server.create(file("fails", echo=["shade==1.0"]), code).status == 200
    reply = server.create(file("fails", echo=["shade==9.9"]), code, reload=True)
    assert reply.status == 400
    assert server.run("fails", "echo").body == "1.0"
    assert "shade==9.9" in server.details("fails")["last_deploy_error"]


def test_progress_is_shown_while_it_installs(server: Any, code: Path) -> None:
    server.index.held.clear()
    server.index.hold = hold = threading.Event()
    replies: list[Any] = []
    deploying = threading.Thread(
        target=lambda: replies.append(server.create(file("slow", echo=["paint"]), code))
    )
    deploying.start()
    assert server.index.held.wait(30)
    details = server.details("slow")
    hold.set()
    assert details["state"] == "starting"
    assert re.match("echo: (installing python-dependencies with )?uv", details["progress"])
    assert "echo: installing python-dependencies with uv" in server.log.read_text()
    deploying.join(60)
    assert replies[0].status == 200
    assert server.details("slow")["progress"] is None


def test_a_server_that_stops_ends_the_install(start: Any, code: Path) -> None:
    server = start()
    server.index.hold = threading.Event()
    ended: list[BaseException] = []

    def create() -> None:
        try:
            server.create(file("ended", echo=["paint"]), code)
        except OSError as error:
            ended.append(error)

    deploying = threading.Thread(target=create)
    deploying.start()
    assert server.index.held.wait(30)
    assert server.stop() == 0
    server.index.hold.set()
    deploying.join(10)
    assert len(ended) == 1
    assert not list((server.data_dir / ".environments").glob("*.*/pyvenv.cfg"))
