"""Worker processes: replicas, restarts with backoff, and tasks that outlive their worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.api_server.backends.local.replica import Backoff


def test_backoff_doubles_up_to_its_bound() -> None:
    backoff = Backoff()
    assert [backoff.delay(n) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay(10_000) == 30


@pytest.fixture(scope="module")
def running(server: Any, project: Path) -> Any:
    """``team``: two replicas of ``pid``, one of ``gate`` and of ``suicide`` each."""
    file = server.deployment(
        "team", "pid", "gate", "suicide",
        pid={"replicas": 2}, suicide={"max-retries": 1},
    )  # fmt: skip
    reply = server.create(file, project)
    assert reply.status == 200, reply
    return server


def test_each_replica_is_a_process_of_its_own(running: Any) -> None:
    pids = [worker["pid"] for worker in running.service("team", "pid")["workers"]]
    assert len(set(pids)) == 2
    assert all(map(running.alive, pids))
    assert running.process.pid not in pids
    tasks = [running.start_task("team", "pid") for _ in range(40)]
    assert {running.result("team", task)["result"] for task in tasks} == {str(p) for p in pids}


@pytest.mark.defect(8)
def test_a_killed_worker_is_replaced_and_its_task_ends(running: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waiting = tmp_path / "gate.waiting"
    task = running.start_task("team", "gate", gate=str(gate))
    running.wait_until(waiting.exists, "the task runs")
    waiting.unlink()
    before = running.service("team", "gate")
    os.kill(before["workers"][0]["pid"], signal.SIGKILL)
    down = running.wait_until(
        lambda: (now := running.service("team", "gate"))["state"] != "ready" and now, "it is seen"
    )
    assert down["workers"][0]["last_exit"]["exit_code"] == -9
    assert "was killed by signal 9 (Killed)" in down["last_error"]
    body = running.get("/status/").body
    assert body["status"] == "Unhealthy"
    assert "deployment 'team' is degraded: service 'gate'" in body["status_message"]
    assert running.get("/readyz").status == 200  # it takes tasks: others run, and these wait
    running.wait_until(waiting.exists, "the task runs again, in a new worker")
    gate.touch()
    assert running.result("team", task)["result"] == "opened"
    after = running.service("team", "gate")
    assert (after["state"], after["restarts"]) == ("ready", before["restarts"] + 1)
    assert after["workers"][0]["worker_id"] != before["workers"][0]["worker_id"]


def test_a_workflow_that_ends_its_worker_fails_and_is_told_with_its_output(running: Any) -> None:
    begin = time.monotonic()
    task = running.start_task("team", "suicide")
    result = running.result("team", task, wait=30)
    assert result["data"]["state"] == "failed"
    service = running.wait_until(
        lambda: (now := running.service("team", "suicide"))["ready_replicas"] == 1 and now,
        "the worker is back",
    )
    # Two attempts (one retry), each of which ended a worker: pauses of 0.5 and 1 s between them.
    assert service["restarts"] == 2
    assert service["workers"][0]["last_exit"]["exit_code"] == 7
    assert "ended with exit code 7" in service["last_error"]
    assert "about to end" in service["last_error"]
    assert time.monotonic() - begin > 1.5
    assert running.run("team", "pid").status == 200


def test_a_worker_outlives_neither_its_deployment_nor_what_it_started(running: Any) -> None:
    file = running.deployment("brief", "pid", pid={"replicas": 2})
    (running.data_dir.parent / "src").mkdir(exist_ok=True)
    source = running.data_dir.parent / "src" / "workflow.py"
    source.write_text(
        "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
        "from workflows import Workflow, step\n"
        "from workflows.events import StartEvent, StopEvent\n"
        "class Child(Workflow):\n"
        "    @step\n"
        "    async def run_(self, ev: StartEvent) -> StopEvent:\n"
        "        return StopEvent(result=str(child.pid))\n"
        "pid = Child()\n"
    )
    assert running.create(file, running.data_dir.parent).status == 200
    child = int(running.run("brief").body)
    pids = [worker["pid"] for worker in running.service("brief", "pid")["workers"]]
    assert running.alive(child)
    assert running.request("DELETE", "/deployments/brief").status == 200
    assert not any(map(running.alive, [*pids, child]))
