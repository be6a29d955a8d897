"""Tokens, keys and the values of secrets are in no reply, log, process list or representation."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from llamadeploy.api_server.backends.base import DeployRequest
from llamadeploy.api_server.backends.local.options import LocalOptions
from llamadeploy.api_server.options import ServeOptions
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.message_queues.config import RabbitMQMessageQueueConfig
from llamadeploy.settings import PodSettings
from llamadeploy.signing import KeyRing

TOKEN = "t0ken-of-the-server-4711"
API_KEY = "sk-very-secret-0815"

WORKFLOW = """
import os
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Leaky(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        print("the key is", os.environ["API_KEY"], flush=True)
        names = [name for name in os.environ if name.startswith("LLAMADEPLOY_")]
        return StopEvent(result=" ".join(sorted(names)))

leaky = Leaky()
"""


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with a token, and a deployment with a secret in its environment."""
    project = tmp_path_factory.mktemp("project")
    (project / "src").mkdir()
    (project / "src" / "workflow.py").write_text(textwrap.dedent(WORKFLOW))
    server = start_server(None, env={"LLAMA_DEPLOY_TOKEN": TOKEN})
    server.headers = {"Authorization": f"Bearer {TOKEN}"}
    file = server.deployment("leaky", "leaky", leaky={"env": {"API_KEY": API_KEY}})
    assert server.create(file, project).status == 200
    server.project = project
    server.secrets = [TOKEN, API_KEY, *_keys(server.data_dir / "leaky" / "signing-keys")]
    return server


def _keys(path: Path) -> list[str]:
    return [entry.partition(":")[2] for entry in path.read_text().replace(",", "\n").split()]


def _check(text: str, secrets: list[str], where: str) -> None:
    assert not [secret for secret in secrets if secret in text], where


def test_no_reply_holds_a_secret(guarded: Any) -> None:
    task = guarded.start_task("leaky", "leaky")
    guarded.result("leaky", task)
    details = guarded.details("leaky")
    plane, queue = details["control_plane"]["url"], details["message_queue"]["url"]
    documents = [guarded.url, plane, queue]
    seen = 0
    for base in documents:
        paths = guarded.get(f"{base}/openapi.json").body["paths"]
        for path, operations in paths.items():
            if "get" not in operations or "follow" in str(operations):
                continue
            for name, value in (
                ("deployment_name", "leaky"), ("name", "leaky"), ("task_id", task["task_id"]),
                ("session_id", task["session_id"]), ("service_name", "leaky"), ("topic", "t"),
            ):  # fmt: skip
                path = path.replace("{" + name + "}", value)
            reply = guarded.get(base + path)
            _check(str(reply.body) + str(reply.headers), guarded.secrets, path)
            seen += reply.status == 200
    assert seen >= 20
    log = guarded.get(f"{guarded.url}/deployments/leaky/logs")
    _check(str(log.body), guarded.secrets, "the log over HTTP")


def test_errors_hold_no_secret(guarded: Any) -> None:
    file = guarded.deployment("leaky2", "leaky", leaky={"env": {"API_KEY": API_KEY}})
    file["services"]["leaky"]["path"] = "src/workflow:nothing"
    reply = guarded.create(file, guarded.project)
    assert reply.status == 400
    _check(str(reply.body), guarded.secrets, "the error")
    file["services"]["leaky"]["env"] = {"API_KEY": {"nested": API_KEY}}
    reply = guarded.create(file, guarded.project)
    assert reply.status == 400
    _check(str(reply.body), guarded.secrets, "the error")
    _check(str(guarded.get("/status/").body), guarded.secrets, "status")


def test_the_log_holds_no_secret(guarded: Any) -> None:
    """Not even where the workflow prints it."""
    guarded.run("leaky", "leaky")
    guarded.wait_until(lambda: "the key is ***" in guarded.tail(), "the line is redacted")
    _check(guarded.log.read_text(), guarded.secrets, "the log")


def test_no_process_shows_a_secret_in_its_arguments(guarded: Any) -> None:
    pids = [guarded.process.pid, *guarded.workers()]
    assert len(pids) == 2
    for pid in pids:
        _check(Path(f"/proc/{pid}/cmdline").read_text(), guarded.secrets, f"arguments of {pid}")
        mode = stat.S_IMODE(os.stat(f"/proc/{pid}/environ").st_mode)
        assert mode & 0o077 == 0, "its environment is for its own user"


def test_workflow_code_and_its_programs_do_not_inherit_our_credentials(guarded: Any) -> None:
    """They are taken out of the environment before it runs."""
    seen = guarded.run("leaky", "leaky").body.split()
    assert "LLAMADEPLOY_SERVICE" in seen
    assert not {"LLAMADEPLOY_API_TOKEN", "LLAMADEPLOY_SIGNING_KEYS", "LLAMADEPLOY_QUEUE_URL"} & {
        *seen
    }


def test_what_is_kept_is_for_its_owner_alone(guarded: Any) -> None:
    for path in guarded.data_dir.rglob("*"):
        private = stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0
        parents = [guarded.data_dir / "leaky", *path.parents]
        behind = any(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in parents if p.is_dir())
        assert private or behind, path
    for name in ("signing-keys", "deployment.json"):
        assert stat.S_IMODE((guarded.data_dir / "leaky" / name).stat().st_mode) == 0o600


def test_no_representation_shows_a_secret() -> None:
    keys = KeyRing.generate()
    secrets = [TOKEN, API_KEY, *(part.partition(":")[2] for part in keys.dump().split(","))]
    for thing in (
        ServeOptions(token=TOKEN),
        LocalOptions(token=TOKEN),
        DeployRequest(text=f"env: {API_KEY}"),
        keys,
        PodSettings(
            api_token=SecretStr(TOKEN),
            signing_keys=SecretStr(keys.dump()),
            queue_url=SecretStr(f"http://x:{TOKEN}@h"),
            state_store_uri=SecretStr(f"redis://:{API_KEY}@h"),
        ),
        ControlPlaneConfig(state_store_uri=f"redis://:{API_KEY}@h"),
        RabbitMQMessageQueueConfig(password=API_KEY),
    ):
        _check(f"{thing!r} {thing}", secrets, type(thing).__name__)
