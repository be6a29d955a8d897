"""schemathesis over both OpenAPI documents of a running server: no server error, no undocumented
reply, no way around the token.

``make test`` takes seconds with a fixed seed; ``LLAMADEPLOY_FUZZ_SECONDS=600 pytest tests/fuzz``
takes that long per document and pass, with a seed of its own (which the output names).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOKEN = "fuzz-token"
SECONDS = int(os.environ.get("LLAMADEPLOY_FUZZ_SECONDS", "10"))
LONG = "LLAMADEPLOY_FUZZ_SECONDS" in os.environ
SEED = [] if LONG else ["--seed", "4711"]
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,ignored_auth"
)
NEVER = (
    r"/ui/|/logs$|/deployments/\{name\}$|/services/\{service_name\}/(stop|restart|scale|refuse)$"
)
"""Front ends' answers are their own; logs may be followed for ever; the others end what all
requests need, or start a hundred processes (schemathesis finds names that exist in replies)."""
WITH_KNOWN_IDS = rf"{NEVER}|/delete$|/deregister$"

WORKFLOW = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Echo(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="echo")

echo = Echo()
"""
FILE = """
name: fuzz
control-plane: {}
default-service: echo
services:
  echo: {name: echo, source: {type: local, name: src}, path: "src/workflow:echo"}
"""


class Target:
    """A running server with one deployment, a session and a task that has ended."""

    def __init__(self, folder: Path) -> None:
        (folder / "src").mkdir()
        (folder / "src" / "workflow.py").write_text(WORKFLOW)
        (folder / "deployment.yaml").write_text(FILE)
        self.folder = folder
        self.log = folder / "server.log"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llamadeploy", "api-server", "deployment.yaml",
                 "--port", "0", "--data-dir", str(folder / "data")],
                stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder,
                env={**environ, "LLAMA_DEPLOY_TOKEN": TOKEN},
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.url = line.split()[-1]
        self.process.stdout.readline()
        status = self.request(f"{self.url}/status/")
        self.plane = status["details"]["fuzz"]["control_plane"]["url"]
        self.session = self.request(f"{self.plane}/sessions/create", b"")
        self.task = self.request(f"{self.plane}/sessions/{self.session}/tasks", b'{"input": "{}"}')
        self.request(f"{self.plane}/sessions/{self.session}/tasks/{self.task}/result?wait=30")

    def request(self, url: str, body: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=40) as reply:
            return json.loads(reply.read())

    def run_task(self) -> str:
        return str(self.request(f"{self.url}/deployments/fuzz/tasks/run", b'{"input": "{}"}'))

    def fuzz(self, base: str, name: str, *, known: bool) -> str:
        """Run schemathesis; what it found, or nothing."""
        config = self.folder / f"{name}.toml"
        ids = {
            "path.deployment_name": "fuzz", "path.session_id": self.session,
            "query.session_id": self.session, "path.task_id": self.task,
        }  # fmt: skip
        # A long poll is as long as it is asked to be, beyond the request's time-out too.
        given = {"query.wait": "1"} | (ids if known else {})
        lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in given.items()]
        config.write_text("[parameters]\n" + "\n".join(lines))
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
            f"{base}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}", "-c", CHECKS,
            "--max-time", str(SECONDS), "-n", "1000" if LONG else "15", *SEED,
            "--exclude-path-regex", WITH_KNOWN_IDS if known else NEVER,
            *(("--exclude-method", "DELETE") if known else ()),
            "--request-timeout", "10", "--continue-on-failure", "--warnings", "off",
            "--phases", "coverage,fuzzing",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=SECONDS + 60,
        )  # fmt: skip
        return "" if done.returncode == 0 else f"{name}:\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    target = Target(tmp_path_factory.mktemp("fuzz"))
    yield target
    target.process.send_signal(signal.SIGTERM)
    assert target.process.wait(30) == 0
    assert target.process.stdout is not None
    target.process.stdout.close()


@pytest.mark.timeout(4 * SECONDS + 120)
@pytest.mark.parametrize("known", [True, False], ids=["known ids", "any ids"])
def test_nothing_that_a_client_sends_is_a_server_error(target: Target, known: bool) -> None:
    """Both documents at one time. First with ids that exist, so that the requests get far."""
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda b=base, n=name: found.append(target.fuzz(b, n, known=known)))
        for name, base in (("apiserver", target.url), ("control-plane", target.plane))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert not any(found), "\n".join(found)
    assert "Traceback" not in target.log.read_text(), target.log.read_text()[-4000:]
    assert target.run_task() == "echo"
