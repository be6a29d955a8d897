"""Real workers under control: stopped, restarted, scaled, read, deleted; options of a service."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CODE = '''
import asyncio, os, pathlib, threading
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

class Pid(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        print("ran with", ev.get("text", "nothing"), flush=True)
        return StopEvent(result=str(os.getpid()))

class Gate(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        pathlib.Path(ev.gate + ".waiting").touch()
        while not pathlib.Path(ev.gate).exists():
            await asyncio.sleep(0.01)
        return StopEvent(result="opened")

class Progress(Event):
    n: int

class Count(Workflow):
    @step
    async def run_(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(3):
            ctx.write_event_to_stream(Progress(n=n))
        return StopEvent(result="counted")

class Ask(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result="answered")

class Locked(Workflow):
    """Keeps in its context what cannot be put away."""
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent:
        await ctx.store.set("lock", threading.Lock())
        return InputRequiredEvent(prefix="?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result="answered")

class Slow(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent(result="never")

class Suicide(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        if not pathlib.Path(ev.get("unless", "/none")).exists():
            os._exit(7)
        return StopEvent(result="lived")

pid, gate, count, ask, locked = Pid(), Gate(), Count(), Ask(), Locked()
slow, suicide = Slow(), Suicide()
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    (folder / "src").mkdir()
    (folder / "src" / "workflow.py").write_text(CODE)
    return folder


@pytest.fixture(scope="module")
def control(server: Any, source: Path) -> Any:
    """``ops``: services to be changed; ``other`` must never be touched."""
    file = server.deployment(
        "ops", "pid", "other", "gate", "count", "ask", "locked", "slow", "suicide",
        other={"path": "src/workflow:pid"},
        ask={"wait-timeout": 0.5},
        slow={"timeout": 0.5},
        suicide={"max-retries": 0},
        gate={"session-policy": "reject"},
    )  # fmt: skip
    reply = server.create(file, source)
    assert reply.status == 200, reply
    return server


D = "/deployments/ops"


def change(server: Any, service: str, operation: str, body: Any = None, status: int = 200) -> Any:
    reply = server.post(f"{D}/services/{service}/{operation}", body)
    assert reply.status == status, reply
    return reply


def pids(server: Any, service: str) -> list[int]:
    return [each["pid"] for each in server.service("ops", service)["workers"]]


def task_path(task: dict[str, Any], rest: str = "") -> str:
    return f"{D}/tasks/{task['task_id']}{rest}"


# -- services ----------------------------------------------------------------------------------


def test_tasks_of_a_stopped_service_queue_until_it_is_restarted(control: Any) -> None:
    before, others = pids(control, "pid"), pids(control, "other")
    change(control, "pid", "stop")
    assert not any(map(control.alive, before))
    assert control.service("ops", "pid")["state"] == "stopped"
    assert control.details("ops")["state"] == "ready"  # it was asked for
    change(control, "pid", "stop")
    tasks = [control.start_task("ops", "pid") for _ in range(3)]
    assert control.get(f"{D}/services/pid/scaling").body["ready"] == 3
    assert control.get(task_path(tasks[0])).body["state"] == "queued"
    assert control.run("ops", "other").body == str(others[0])
    change(control, "pid", "restart")
    (now,) = pids(control, "pid")
    assert {control.result("ops", task)["result"] for task in tasks} == {str(now)}
    assert pids(control, "other") == others


def test_a_service_is_restarted_with_no_request_failing(control: Any) -> None:
    before, others = pids(control, "pid"), pids(control, "other")
    stop, replies = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            replies.append(control.run("ops", "pid"))

    client = threading.Thread(target=ask)
    client.start()
    change(control, "pid", "restart")
    stop.set()
    client.join(30)
    assert {reply.status for reply in replies} == {200}
    assert not set(before) & set(pids(control, "pid"))
    assert not any(map(control.alive, before))
    assert pids(control, "other") == others


def test_a_service_is_scaled_up_and_down(control: Any) -> None:
    (first,) = pids(control, "pid")
    others = pids(control, "other")
    change(control, "pid", "scale", {"replicas": 3})
    service = control.service("ops", "pid")
    assert (service["replicas"], service["ready_replicas"]) == (3, 3)
    assert first in pids(control, "pid")
    tasks = [control.start_task("ops", "pid") for _ in range(60)]
    assert len({control.result("ops", task)["result"] for task in tasks}) == 3
    names = [each["name"] for each in control.get(f"{D}/services/pid/scaling").body["replicas"]]
    assert names == ["pid-0", "pid-1", "pid-2"]
    change(control, "pid", "scale", {"replicas": 1})
    assert pids(control, "pid") == [first]
    change(control, "pid", "scale", {"replicas": 0})
    assert not control.alive(first)
    queued = control.start_task("ops", "pid")
    reply = change(control, "pid", "restart", status=409)
    assert "scaled to 0 replicas: scale it up instead" in reply.detail
    change(control, "pid", "scale", {"replicas": 1})
    assert control.result("ops", queued)["result"] == str(pids(control, "pid")[0])
    assert pids(control, "other") == others


def test_tasks_of_ending_workers_go_on(control: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task = control.start_task("ops", "gate", gate=str(gate))
    control.wait_until((tmp_path / "gate.waiting").exists, "the task runs")
    stopping = threading.Thread(target=change, args=(control, "gate", "stop"))
    stopping.start()
    control.wait_until(lambda: control.details("ops")["state"] == "changing", "it stops")
    reply = change(control, "pid", "stop", status=409)
    assert "is changing now" in reply.detail
    gate.touch()
    stopping.join(20)
    assert control.result("ops", task)["result"] == "opened"
    change(control, "gate", "restart")


def test_services_are_listed_with_their_workers(control: Any) -> None:
    found = {each["service_name"]: each for each in control.get(f"{D}/services").body}
    assert found["other"]["state"] == "ready"
    assert (found["other"]["replicas"], found["other"]["ready_replicas"]) == (1, 1)
    assert found["pid"]["default"] is True
    port = control.details("ops")["control_plane"]["port"]
    plane = f"http://127.0.0.1:{port}"
    assert control.post(f"{plane}/services/other/scale", {"replicas": 2}).status == 200
    assert control.service("ops", "other")["ready_replicas"] == 2
    assert len(control.get(f"{plane}/services/other/scaling").body["replicas"]) == 2
    assert control.post(f"{plane}/services/other/scale", {"replicas": 1}).status == 200


def test_changes_outlive_the_server_and_end_with_a_reload(
    start_server: Any, source: Path, tmp_path: Path
) -> None:
    first = start_server(tmp_path / "data")
    file = first.deployment("kept", "pid", "count")
    assert first.create(file, source).status == 200
    assert first.post("/deployments/kept/services/pid/scale", {"replicas": 2}).status == 200
    assert first.post("/deployments/kept/services/count/stop").status == 200
    assert first.stop() == 0
    second = start_server(tmp_path / "data")
    second.wait_until(
        lambda: second.service("kept", "pid")["ready_replicas"] == 2, "both replicas are back"
    )
    assert second.service("kept", "count")["state"] == "stopped"
    assert second.create(file, source, reload=True).status == 200
    assert second.service("kept", "pid")["replicas"] == 1
    assert second.service("kept", "count")["state"] == "ready"


def test_a_scale_that_fails_leaves_what_was(
    start_server: Any, tmp_path: Path, source: Path
) -> None:
    """The workflow's import fails once a file is there."""
    server = start_server(tmp_path / "data")
    folder = tmp_path / "code"
    (folder / "src").mkdir(parents=True)
    bad = folder / "bad"
    code = f"import pathlib\nassert not pathlib.Path({str(bad)!r}).exists(), 'bad'\n" + CODE
    (folder / "src" / "workflow.py").write_text(code)
    assert server.create(server.deployment("fails", "pid"), folder).status == 200
    bad.touch()
    for operation, body in (("scale", {"replicas": 2}), ("restart", None)):
        reply = server.post(f"/deployments/fails/services/pid/{operation}", body)
        assert reply.status == 400
        assert "service 'pid'" in reply.detail
        assert "AssertionError: bad" in reply.detail
        service = server.service("fails", "pid")
        assert (service["replicas"], service["ready_replicas"]) == (1, 1)
        assert server.run("fails").status == 200


# -- a service's options, with real workers ----------------------------------------------------


def test_timeout_ends_a_run_that_works_too_long(control: Any) -> None:
    begin = time.monotonic()
    result = control.result("ops", control.start_task("ops", "slow"))
    assert result["data"]["state"] == "failed"
    assert "0.5" in result["result"]
    assert time.monotonic() - begin < 15


def test_wait_timeout_ends_a_task_that_nobody_answers(control: Any) -> None:
    task = control.start_task("ops", "ask")
    result = control.result("ops", task)
    assert result["data"]["state"] == "failed"
    assert control.get(task_path(task)).body["state"] == "failed"


def test_max_retries_0_gives_up_at_the_first_crash_and_a_letter_can_be_retried(
    control: Any, tmp_path: Path
) -> None:
    unless = tmp_path / "unless"
    task = control.start_task("ops", "suicide", unless=str(unless))
    assert control.result("ops", task)["data"]["error"]["type"] == "WorkerLost"
    status = control.get(task_path(task)).body
    assert (status["state"], status["attempts"]) == ("failed", 1)
    (letter,) = control.get(f"{D}/dead-letters").body
    assert (letter["task_id"], letter["service"]) == (task["task_id"], "suicide")
    unless.touch()
    assert control.post(f"{D}/dead-letters/{letter['letter_id']}/retry").status == 200
    assert control.result("ops", task)["result"] == "lived"
    assert control.get(f"{D}/dead-letters").body == []


def test_session_policy_reject_refuses_a_second_task(control: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    session = control.post(f"{D}/sessions/create").body["session_id"]
    body = {"input": json.dumps({"gate": str(gate)}), "service_id": "gate"}
    path = f"{D}/tasks/create?session_id={session}"
    first = control.post(path, body).body
    reply = control.post(path, body)
    assert reply.status == 409
    assert "takes one at a time" in reply.detail
    gate.touch()
    assert control.result("ops", first)["result"] == "opened"
    assert control.post(path, body).status == 200


# -- status, cancel, streams -------------------------------------------------------------------


def test_status_says_why_a_task_stays_in_memory(control: Any) -> None:
    task = control.start_task("ops", "locked")
    status = control.wait_until(
        lambda: (now := control.get(task_path(task)).body)["resident"] and now, "it is resident"
    )
    assert status["state"] == "running"
    assert "waits in the memory of locked-0" in status["detail"]
    outcome = control.post(task_path(task, "/cancel")).body
    assert outcome == {"task_id": task["task_id"], "state": "cancelled", "outcome": "cancelled"}
    assert control.get(task_path(task)).body["resident"] is None
    assert control.post(task_path(task, "/cancel")).body["outcome"] == "already_finished"


def test_cancel_ends_a_running_task_in_its_worker(control: Any, tmp_path: Path) -> None:
    task = control.start_task("ops", "gate", gate=str(tmp_path / "never"))
    control.wait_until((tmp_path / "never.waiting").exists, "the task runs")
    assert control.post(task_path(task, "/cancel")).body["outcome"] == "cancelled"
    assert control.result("ops", task)["data"]["state"] == "cancelled"

    def idle() -> bool:
        replicas = control.get(f"{D}/services/gate/scaling").body["replicas"]
        return all(each["in_flight"] == 0 for each in replicas)

    control.wait_until(idle, "its worker is free")


def test_typed_events_name_their_class(control: Any) -> None:
    task = control.start_task("ops", "count")
    control.result("ops", task)
    request = urllib.request.Request(
        control.url + task_path(task, "/events"), headers={"Accept": "text/event-stream"}
    )
    with urllib.request.urlopen(request, timeout=20) as stream:
        text = stream.read().decode()
    first = dict(line.split(": ", 1) for line in text.split("\n\n")[0].splitlines())
    assert (first["id"], first["event"]) == ("1", "workflow.Progress")
    assert json.loads(first["data"]) == {
        "seq": 1, "attempt": 1, "index": 0, "type": "workflow.Progress", "data": {"n": 0},
    }  # fmt: skip


# -- logs --------------------------------------------------------------------------------------


def test_logs_have_what_workers_wrote(control: Any) -> None:
    assert control.run("ops", "other", text="a line to be found").status == 200

    def written() -> Any:
        body = control.get(f"{D}/logs?service=other").body
        return [line for line in str(body).splitlines() if "a line to be found" in line]

    (line,) = control.wait_until(written, "the line is there")
    assert line.endswith(" other-0 | ran with a line to be found")
    assert "other-0" in str(control.get(f"{D}/logs?tail=1000").body)
    assert "other-0" not in str(control.get(f"{D}/logs?service=count&tail=1000").body)
    assert control.get(f"{D}/logs?service=nobody").status == 404
    assert control.get(f"{D}/logs?tail=-1").status == 422


def test_logs_are_followed(control: Any) -> None:
    url = f"{control.url}{D}/logs?service=other&tail=0&follow=true&format=json"
    with urllib.request.urlopen(url, timeout=20) as stream:
        assert control.run("ops", "other", text="followed").status == 200
        line = json.loads(next(each for each in stream if each.strip()))
    assert (line["service"], line["replica"], line["text"]) == (
        "other", "other-0", "ran with followed",
    )  # fmt: skip
    assert abs(line["time"] - time.time()) < 20


# -- delete ------------------------------------------------------------------------------------


@pytest.fixture
def doomed(server: Any, source: Path) -> Callable[[str], Any]:
    def create(name: str) -> Any:
        file = server.deployment(name, "gate", "ask", "pid")
        assert server.create(file, source).status == 200
        return server

    return create


def test_delete_lets_running_tasks_end_and_cancels_the_rest(doomed: Any, tmp_path: Path) -> None:
    server = doomed("doomed")
    assert server.post("/deployments/doomed/services/pid/stop").status == 200
    gate, replies = tmp_path / "gate", {}

    def run(service: str) -> None:
        replies[service] = server.run("doomed", service, gate=str(gate))

    waiting = [threading.Thread(target=run, args=(name,)) for name in ("gate", "ask", "pid")]
    for each in waiting:
        each.start()
    server.wait_until((tmp_path / "gate.waiting").exists, "one runs")
    deleted = []
    deleting = threading.Thread(
        target=lambda: deleted.append(server.request("DELETE", "/deployments/doomed?drain=20"))
    )
    deleting.start()
    server.wait_until(
        lambda: server.details("doomed")["state"] == "stopping", "it is being deleted"
    )
    reply = server.run("doomed", "pid")
    assert (reply.status, "is being deleted" in reply.detail) == (409, True)
    assert server.request("DELETE", "/deployments/doomed").status == 409
    gate.touch()
    for each in [*waiting, deleting]:
        each.join(30)
    assert deleted[0].status == 200
    assert (replies["gate"].status, replies["gate"].body) == (200, "opened")
    for name in ("ask", "pid"):
        assert replies[name].body == "deployment 'doomed' was deleted"
        assert replies[name].headers["x-task-state"] == "cancelled"
    assert server.get("/deployments/doomed").status == 404
    assert not (server.data_dir / "doomed").exists()


def test_delete_without_a_drain_is_quick(doomed: Any, tmp_path: Path) -> None:
    server = doomed("hasty")
    server.start_task("hasty", "gate", gate=str(tmp_path / "gate"))
    server.wait_until((tmp_path / "gate.waiting").exists, "it runs")
    begin = time.monotonic()
    assert server.request("DELETE", "/deployments/hasty?drain=0").status == 200
    assert time.monotonic() - begin < 8
    assert server.request("DELETE", "/deployments/hasty?drain=-1").status == 422


def test_a_deployment_that_cannot_be_brought_back_can_be_deleted(
    start_server: Any, source: Path, tmp_path: Path
) -> None:
    first = start_server(tmp_path / "data")
    for name in ("damaged", "sound"):
        assert first.create(first.deployment(name, "pid"), source).status == 200
    assert first.stop() == 0
    (tmp_path / "data" / "damaged" / "deployment.json").write_text("{")
    second = start_server(tmp_path / "data")
    assert second.details("damaged")["state"] == "failed"
    assert second.request("DELETE", "/deployments/damaged").status == 200
    assert not (tmp_path / "data" / "damaged").exists()
    assert "damaged" not in second.get("/status/").body["details"]
    assert second.request("DELETE", "/deployments/damaged").status == 404
    assert second.run("sound").status == 200


# -- retention ---------------------------------------------------------------------------------


def test_retention_is_configurable(start_server: Any, source: Path) -> None:
    server = start_server(None, "--retention", "0.5")
    assert server.create(server.deployment("brief", "pid"), source).status == 200
    task = server.start_task("brief", "pid")
    assert server.result("brief", task)["result"].isdigit()
    path = f"/deployments/brief/tasks/{task['task_id']}"
    server.wait_until(lambda: server.get(path).status == 404, "it is forgotten")
    assert server.get(f"{path}/results?session_id={task['session_id']}").status == 404
