"""A session goes on while the keys that sign its context change."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKFLOW = """
from workflows import Context, Workflow, step
from workflows.events import StartEvent, StopEvent

class Count(Workflow):
    @step
    async def run_(self, ctx: Context, ev: StartEvent) -> StopEvent:
        number = await ctx.store.get("number", default=0) + 1
        await ctx.store.set("number", number)
        return StopEvent(result=str(number))

count = Count()
"""


class Deployment:
    """A deployment whose server is started again and again."""

    def __init__(self, start: Callable[..., Any], folder: Path) -> None:
        self._start = start
        self.data = folder / "data"
        self.keys = self.data / "counting" / "signing-keys"
        (folder / "src").mkdir()
        (folder / "src" / "workflow.py").write_text(textwrap.dedent(WORKFLOW))
        self.server = start(self.data)
        assert self.server.create(self.server.deployment("counting", "count"), folder).status == 200
        self.session = self.server.post("/deployments/counting/sessions/create").body["session_id"]

    def restart(self) -> None:
        assert self.server.stop() == 0
        self.server = self._start(self.data)

    def rotate(self) -> str:
        """The new key's id."""
        command = [sys.executable, "-m", "llamadeploy", "rotate-keys", "counting"]
        done = subprocess.run(
            [*command, "--data-dir", str(self.data)], capture_output=True, text=True, check=True
        )
        new = self.keys.read_text().partition(":")[0]
        assert f"signed with key {new}" in done.stdout
        return new

    def run(self) -> str:
        path = f"/deployments/counting/tasks/create?session_id={self.session}"
        task = self.server.post(path, {"input": "{}"}).body
        return str(self.server.result("counting", task)["result"])

    def signed_with(self) -> str:
        """Id of the key that signed the session's context."""
        with contextlib.closing(sqlite3.connect(self.data / "counting" / "state.db")) as database:
            ((context,),) = database.execute("SELECT context FROM contexts").fetchall()
        return str(context).split(".")[1]


def test_a_session_survives_the_rotation_of_its_keys(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    deployment = Deployment(start_server, tmp_path)
    assert deployment.run() == "1"
    first = deployment.signed_with()
    second = deployment.rotate()
    assert second != first and len(deployment.keys.read_text().split()) == 2
    assert deployment.keys.stat().st_mode & 0o077 == 0
    deployment.restart()
    assert deployment.run() == "2", "the old key still verifies"
    assert deployment.signed_with() == second
    new, old = deployment.keys.read_text().split()
    assert old.startswith(first)
    deployment.keys.write_text(f"{new}\n")
    deployment.restart()
    assert deployment.run() == "3", "nothing is signed with the old key any more"
    deployment.keys.write_text(f"{old}\n")
    deployment.restart()
    assert "signed with a key that is not in the key ring" in deployment.run()


def test_rotation_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "signing-keys").write_text("a:b")
    for name in ("nobody", "mine", "..", "../x", "/etc", ""):
        done = subprocess.run(
            [sys.executable, "-m", "llamadeploy", "rotate-keys", name, "--data-dir", str(tmp_path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and "there is no deployment" in done.stderr, done
    assert (tmp_path / "mine" / "signing-keys").read_text() == "a:b"
