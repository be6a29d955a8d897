"""Creating deployments: what goes wrong leaves nothing, what goes right is isolated."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def nothing_is_left(server: Any, name: str) -> None:
    """No folder, no listing, no process of the deployment."""
    assert not (server.data_dir / name).exists()
    assert name not in server.get("/status/").body["deployments"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        assert f"LLAMADEPLOY_DEPLOYMENT={name}\0".encode() not in environ


BAD_FILES = {
    "yaml": ("name: bad\nservices: [\n", "deployment.yaml:3: YAML:"),
    "empty": ("", "there is no deployment in it"),
    "not a mapping": ("- a\n- b\n", "the document is not a mapping"),
    "unknown key": ("name: bad\ncontrol-plane: {}\nservicse: {}\n", "did you mean 'services'?"),
    "not UTF-8": (b"name: \xff\xfe", "is not UTF-8"),
    "two": ("---\n".join(f"name: {name}\ncontrol-plane: {{}}\nservices: {{}}\n" for name in "ab"),
            "put each into a file of its own"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_400_and_says_why(server: Any, kind: str) -> None:
    content, message = BAD_FILES[kind]
    reply = server.create(content)
    assert reply.status == 400
    assert message in reply.detail


def with_service(server: Any, name: str, **service: Any) -> dict[str, Any]:
    return dict(server.deployment(name, "echo", echo=service))


BAD_SERVICES = {
    "source": ({"source": {"type": "local", "name": "nowhere"}}, "'nowhere' does not exist in"),
    "git": ({"source": {"type": "git", "name": "http://127.0.0.1:1/y.git"}}, "cannot be reached"),
    "module": ({"path": "src/workflwo:echo"}, "did you mean 'workflow'?"),
    "import": ({"path": "src/broken:echo"}, "ZeroDivisionError"),
    "env-file": ({"env-files": ["missing.env"]}, "'missing.env' cannot be read"),
    "reserved": ({"env": {"LLAMADEPLOY_SERVICE": "x"}}, "is set by the server"),
    "dependencies": ({"python-dependencies": ["--target /x"]}, "'--target' is not possible here"),
}


@pytest.mark.parametrize("kind", BAD_SERVICES)
def test_a_bad_service_leaves_nothing(server: Any, project: Path, kind: str) -> None:
    (project / "src" / "broken.py").write_text("echo = 1 / 0\n")
    service, message = BAD_SERVICES[kind]
    reply = server.create(with_service(server, "bad", **service), project)
    assert reply.status == 400, reply
    assert message in reply.detail
    assert "echo" in reply.detail
    nothing_is_left(server, "bad")


def test_one_bad_service_takes_the_good_ones_down(server: Any, project: Path) -> None:
    file = server.deployment("half", "echo", "missing")
    reply = server.create(file, project)
    assert reply.status == 400
    assert "service 'missing'" in reply.detail
    nothing_is_left(server, "half")


@pytest.mark.defect(25)
def test_a_failed_deploy_is_visible_in_status_until_it_succeeds(server: Any, project: Path) -> None:
    server.create(with_service(server, "later", path="src/workflow:missing"), project)
    body = server.get("/status/").body
    assert body["details"]["later"]["state"] == "failed"
    assert "has no attribute 'missing'" in body["details"]["later"]["problem"]
    assert "deployment 'later' is failed" in body["status_message"]
    assert server.create(with_service(server, "later"), project).status == 200
    assert server.details("later")["state"] == "ready"
    server.request("DELETE", "/deployments/later")


def test_names_are_taken_once(server: Any, project: Path) -> None:
    file = with_service(server, "once")
    assert server.create(file, project).status == 200
    reply = server.create(file, project)
    assert reply.status == 409
    assert "a deployment named 'once' exists already" in reply.detail
    assert server.run("once", text="still").body == "v1 still"
    server.request("DELETE", "/deployments/once")
    nothing_is_left(server, "once")


def test_reload_of_an_unknown_name_is_404(server: Any, project: Path) -> None:
    reply = server.create(with_service(server, "unknown"), project, reload=True)
    assert (reply.status, reply.detail) == (404, "Deployment not found")


def test_a_port_in_use_is_named(server: Any, project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for section in ("control-plane", "message-queue"):
            file = with_service(server, "taken")
            file[section] = {"type": "simple"} if section == "message-queue" else {}
            file[section]["port"] = port
            reply = server.create(file, project)
            assert reply.status == 400
            assert f"port {port} is in use" in reply.detail
            assert f"{section}.port" in reply.detail
            nothing_is_left(server, "taken")


def test_ports_of_the_file_are_used(server: Any, project: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (first, second)]
    file = with_service(server, "ports")
    file["control-plane"] = {"port": ports[0]}
    file["message-queue"] = {"type": "simple", "port": ports[1]}
    assert server.create(file, project).status == 200
    assert server.get(f"http://127.0.0.1:{ports[0]}/services").body.keys() == {"echo"}
    queue = server.get(f"http://127.0.0.1:{ports[0]}/queue_config").body
    assert queue["SimpleMessageQueueConfig"]["port"] == ports[1]
    server.request("DELETE", "/deployments/ports")


def test_a_host_for_everybody_needs_a_token(server: Any, project: Path) -> None:
    file = with_service(server, "open")
    file["control-plane"] = {"host": "0.0.0.0"}
    reply = server.create(file, project)
    assert reply.status == 400
    assert "control-plane.host: '0.0.0.0'" in reply.detail
    nothing_is_left(server, "open")


@pytest.mark.defect(19)
def test_nothing_outside_the_work_directory_is_touched(server: Any, project: Path) -> None:
    users = server.data_dir / "project"
    users.mkdir()
    (users / "thesis.txt").write_text("years of work")
    before = snapshot(project)
    # The name of a folder of the user's, in the folder that 0.8.1 would have replaced.
    reply = server.create(with_service(server, "project"), project)
    assert reply.status == 400
    assert "is not a deployment's" in reply.detail
    assert (users / "thesis.txt").read_text() == "years of work"
    # The deployment is named as its own source.
    assert server.create(with_service(server, "src"), project).status == 200
    assert (
        server.create(with_service(server, "src"), project, reload=True, local=True).status == 200
    )
    assert server.request("DELETE", "/deployments/src").status == 200
    assert snapshot(project) == before


def test_env_and_env_files_reach_their_service_alone(server: Any, project: Path) -> None:
    (project / "service.env").write_text("FROM_FILE=file\nBOTH=file\n")
    file = server.deployment("env", "one", "two", **{
        "one": {"path": "src/workflow:environment", "env": {"MINE": "one", "BOTH": "env"},
                "env-files": ["service.env"]},
        "two": {"path": "src/workflow:environment"},
    })  # fmt: skip
    assert server.create(file, project).status == 200
    value = {
        (service, name): server.run("env", service, name=name).body
        for service in ("one", "two")
        for name in ("MINE", "FROM_FILE", "BOTH")
    }
    assert value["one", "MINE"] == "one"
    assert value["one", "FROM_FILE"] == "file"
    assert value["one", "BOTH"] == "file"
    assert {value["two", name] for name in ("MINE", "FROM_FILE", "BOTH")} == {"unset"}
    server.request("DELETE", "/deployments/env")


def test_configmaps_of_a_manifest_are_a_source(server: Any, tmp_path: Path) -> None:
    manifest = """
apiVersion: llamadeploy.io/v1alpha1
kind: Deployment
metadata: {name: manifest}
spec:
  defaultService: echo
  services:
  - name: echo
    source: {configMap: {name: code}}
    path: workflow:echo
---
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  workflow.py: |
    from workflows import Workflow, step
    from workflows.events import StartEvent, StopEvent
    class Echo(Workflow):
        @step
        async def run_(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="from a ConfigMap")
    echo = Echo()
"""
    reply = server.create(manifest, tmp_path)
    assert reply.status == 200, reply
    assert server.run("manifest").body == "from a ConfigMap"
    server.request("DELETE", "/deployments/manifest")


def test_deployments_are_isolated_from_each_other(server: Any, project: Path) -> None:
    for name in ("left", "right"):
        file = server.deployment(name, "echo", echo={"path": "src/workflow:environment",
                                                     "env": {"SIDE": name}})  # fmt: skip
        assert server.create(file, project).status == 200
    for name in ("left", "right"):
        assert {server.run(name, name="SIDE").body for _ in range(5)} == {name}
    task = server.start_task("left", "echo", name="SIDE")
    assert server.result("left", task)["result"] == "left"
    path = f"/tasks/{task['task_id']}/results?session_id={task['session_id']}"
    assert server.get(f"/deployments/right{path}").status == 404
    ports = [server.details(name)["control_plane"]["port"] for name in ("left", "right")]
    assert len(set(ports)) == 2
    server.request("DELETE", "/deployments/left")
    assert server.run("right", name="SIDE").body == "right"
    server.request("DELETE", "/deployments/right")


@pytest.mark.defect(18)
def test_status_answers_while_a_deploy_runs_and_create_returns_when_ready(
    server: Any, project: Path, tmp_path: Path
) -> None:
    import threading
    import time

    gate = tmp_path / "gate"
    (project / "src" / "slow_start.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
        "from workflow import echo\n"
    )
    replies = []
    file = with_service(server, "slow", path="src/slow_start:echo")
    creating = threading.Thread(target=lambda: replies.append(server.create(file, project)))
    creating.start()
    server.wait_until(lambda: "slow" in server.get("/status/").body["details"], "deploy has begun")
    longest = 0.0
    for _ in range(20):
        begin = time.monotonic()
        assert server.get("/status/").body["details"]["slow"]["state"] == "starting"
        longest = max(longest, time.monotonic() - begin)
    assert longest < 1
    assert server.create(file, project).status == 409
    assert server.run("slow", text="early").status == 503
    assert not replies
    gate.touch()
    creating.join(30)
    assert replies[0].status == 200
    assert server.run("slow", text="x").body == "v1 x"
    server.request("DELETE", "/deployments/slow")


@pytest.mark.defect(11)
def test_a_hundred_malformed_creates_leak_nothing(server: Any, project: Path) -> None:
    bad = [
        *(content for content, _ in BAD_FILES.values()),
        with_service(server, "leak", source={"type": "local", "name": "nowhere"}),
        with_service(server, "leak", **{"env-files": ["missing.env"]}),
        {**with_service(server, "leak"), "control-plane": {"port": int(server.url.split(":")[-1])}},
        {**with_service(server, "leak"), "control-plane": {"state_store_uri": "sqlite:////x/y"}},
    ]

    def used() -> tuple[int, int]:
        pid = server.process.pid
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))

    for content in bad:
        server.create(content, project)
    before = used()
    for number in range(100):
        reply = server.create(bad[number % len(bad)], project)
        assert 400 <= reply.status < 500, reply
    for _ in range(3):
        assert (
            server.create(with_service(server, "leak", path="src/workflow:no"), project).status
            == 400
        )
    server.wait_until(lambda: used()[0] <= before[0] + 2, f"descriptors: {before} before")
    assert used()[1] <= before[1] + 8  # threads of the default executor's pool
    nothing_is_left(server, "leak")
    assert server.create(with_service(server, "leak"), project).status == 200
    assert server.run("leak", text="good").body == "v1 good"
    server.request("DELETE", "/deployments/leak")


def test_there_are_no_more_than_ten_deployments(start_server: Any) -> None:
    server = start_server()
    for number in range(10):
        assert server.create(server.deployment(f"empty-{number}")).status == 200
    reply = server.create(server.deployment("eleventh"))
    assert reply.status == 409
    assert "no more than 10 are possible; delete one first" in reply.detail
    assert server.request("DELETE", "/deployments/empty-3").status == 200
    assert server.create(server.deployment("eleventh")).status == 200
    assert len(server.get("/deployments/").body) == 10


def test_whoever_waits_for_a_task_of_a_deleted_deployment_hears_of_it(
    server: Any, project: Path, tmp_path: Path
) -> None:
    import threading

    assert server.create(server.deployment("deleted", "gate"), project).status == 200
    replies = []
    gate = tmp_path / "gate"
    waiting = threading.Thread(target=lambda: replies.append(server.run("deleted", gate=str(gate))))
    waiting.start()
    server.wait_until((tmp_path / "gate.waiting").exists, "the task runs")
    assert server.request("DELETE", "/deployments/deleted?drain=0").status == 200
    waiting.join(10)
    assert replies
    assert (replies[0].status, replies[0].body) == (200, "deployment 'deleted' was deleted")
    nothing_is_left(server, "deleted")


@pytest.mark.defect(22)
def test_secrets_of_a_service_show_nowhere(server: Any, project: Path) -> None:
    (project / "src" / "talkative.py").write_text(
        "import os\nprint('key is', os.environ['SERVICE_API_KEY'], flush=True)\n"
        "raise ValueError(os.environ['SERVICE_API_KEY'])\n"
    )
    service = {"path": "src/talkative:x", "env": {"SERVICE_API_KEY": "v3ry-s3cret"}}
    reply = server.create(with_service(server, "talkative", **service), project)
    assert reply.status == 400
    assert "key is ***" in reply.detail
    assert "v3ry-s3cret" not in reply.detail
    assert "v3ry-s3cret" not in str(server.get("/status/").body)
    assert "v3ry-s3cret" not in server.log.read_text()
