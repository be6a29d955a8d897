"""The containers of a Deployment, run for real with what the manifests say, do a task.

Only what a node would give is replaced: cluster names and ports by those of this machine, volumes
by folders.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

WORKFLOW = """\
import os
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Echo(Workflow):
    @step
    async def run_step(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"{os.environ['GREETING']}, {ev.message}, {os.environ['FILE']}")

workflow = Echo()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """What a kubelet would do with a pod's containers.

    Args:
        replaced: texts of the manifests -> what they are here.
    """

    def __init__(self, folder: Path, replaced: dict[str, str]) -> None:
        self.folder = folder
        self.replaced = {"/srv/llamadeploy": str(folder / "work"), **replaced}

    def local(self, text: str) -> str:
        pattern = "|".join(map(re.escape, sorted(self.replaced, key=len, reverse=True)))
        return re.sub(pattern, lambda match: self.replaced[match[0]], text)

    def command(self, container: dict[str, Any]) -> list[str]:
        words = [self.local(word) for word in container["command"]]
        if words[0] == "llamadeploy":
            return [sys.executable, "-P", "-m", *words]
        return words

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        kept = ("PATH", "PYTHONPATH", "HOME", "TMPDIR")
        found = {name: os.environ[name] for name in kept if name in os.environ}
        mine = {name: self.local(text) for name, text in environ.items() if name not in kept}
        return {**found, **mine, "NO_PROXY": "127.0.0.1"}

    @contextlib.contextmanager
    def running(
        self, container: dict[str, Any], environ: dict[str, str], *more: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        log = (self.folder / f"{container['name']}.log").open("wb")
        process = subprocess.Popen(
            [*self.command(container), *more], env=self.environ(environ), stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                assert process.wait(60) == 0, (self.folder / f"{container['name']}.log").read_text()
            finally:
                process.kill()
                log.close()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))


def containers(case: Any, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    pod = case.child("Deployment", name)["spec"]["template"]["spec"]
    return pod.get("initContainers", []), pod["containers"][0]


def ready(node: Node, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline and process.poll() is None, node.logs()
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)


def test_a_task_is_done(
    case: Callable[..., Any], environ_of: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "echo.py").write_text(WORKFLOW)
    (mounted / "service.env").write_text("FILE=from a file\n")
    service = {
        "name": "echo",
        "path": "echo:workflow",
        "source": {"configMap": {"name": "code"}},
        "env": [{"name": "GREETING", "value": "hello"}],
        "envFiles": ["service.env"],
        "timeoutSeconds": 20,
    }
    found = case({"defaultService": "echo", "services": [service]}, index_url=None)
    ports = [free_port() for _ in range(4)]
    host = "app-control-plane.team-a.svc"
    node = Node(
        tmp_path,
        {
            f"{host}:8000": f"127.0.0.1:{ports[0]}",
            f"{host}:8001": f"127.0.0.1:{ports[1]}",
            "/etc/llamadeploy/source": str(mounted),
        },
    )
    _, plane = containers(found, "app-control-plane")
    (prepare,), worker = containers(found, "app-echo-worker")
    environ = environ_of(found, plane)
    more = ("--port", f"{ports[0]}", "--queue-port", f"{ports[1]}", "--metrics-port", f"{ports[2]}")
    probes = {"LLAMADEPLOY_HEALTH_PORT": str(ports[3])}
    done = subprocess.run(
        node.command(prepare), env=node.environ(environ_of(found, prepare)), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    shutil.rmtree(mounted)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(node.running(plane, environ, *more))
        ready(node, ports[2], process)
        process = stack.enter_context(node.running(worker, environ_of(found, worker) | probes))
        ready(node, ports[3], process)
        answer = httpx.post(
            f"http://127.0.0.1:{ports[0]}/deployments/app/tasks/run",
            json={"input": '{"message": "world"}'},
            headers={"Authorization": f"Bearer {environ['LLAMADEPLOY_API_TOKEN']}"},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text + node.logs()
        assert answer.json() == "hello, world, from a file"
        refused = httpx.get(f"http://127.0.0.1:{ports[0]}/deployments/app/sessions")
        assert refused.status_code in (401, 403)
