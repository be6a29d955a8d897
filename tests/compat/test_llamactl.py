"""The original `llamactl` against the server under test."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.compat

Run = Callable[[list[list[str]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def empty_server(start_server: Callable[..., Any], service: Any) -> Iterator[Any]:
    """A server with nothing deployed; its folder holds the file of the deployment `shop`."""
    services = {"echo": service("workflow:echo"), "counter": service("workflow:counter")}
    with start_server("shop", services) as server:
        yield server


@pytest.fixture(scope="module")
def deployed(empty_server: Any, llamactl: Run, services_ready: Callable[..., None]) -> Any:
    """Outputs of the commands around the first deploy, and the server."""
    server = ["-s", empty_server.api_url]
    file = str(empty_server.deployment_file)
    outputs = llamactl([[*server, "status"], [*server, "deploy", file], [*server, "status"]])
    services_ready(empty_server, ["echo", "counter"])
    return outputs, empty_server


def test_status_before_and_after_deploy(deployed: Any) -> None:
    before, deploy, after = deployed[0]
    assert before["output"] == (
        "LlamaDeploy is up and running.\n\nCurrently there are no active deployments\n"
    )
    assert deploy == {"exit_code": 0, "output": "Deployment successful: shop\n"}
    assert after["output"] == "LlamaDeploy is up and running.\n\nActive deployments:\n- shop\n"


def test_run_and_sessions(deployed: Any, llamactl: Run) -> None:
    server = ["-s", deployed[1].api_url]
    echo, created = llamactl([
        [*server, "run", "-d", "shop", "-a", "message", "two words"],
        [*server, "sessions", "create", "-d", "shop"],
    ])  # fmt: skip
    assert echo == {"exit_code": 0, "output": "echo: two words\n"}
    match = re.fullmatch(r"session_id='([^']+)' task_ids=\[\] state=\{\}\n", created["output"])
    assert match, created
    count = [*server, "run", "-d", "shop", "-s", "counter", "-i", match[1]]
    assert [each["output"] for each in llamactl([count, count])] == ["1\n", "2\n"]


def test_errors(deployed: Any, llamactl: Run) -> None:
    server = ["-s", deployed[1].api_url]
    no_deployment, no_service, duplicate = llamactl([
        [*server, "run", "-d", "nobody"],
        [*server, "run", "-d", "shop", "-s", "nobody"],
        [*server, "deploy", str(deployed[1].deployment_file)],
    ])  # fmt: skip
    assert no_deployment["exit_code"] == no_service["exit_code"] == duplicate["exit_code"] == 1
    assert no_deployment["output"].startswith("Error: Client error '404 Not Found'")
    assert no_service["output"].startswith("Error: Client error '404 Not Found'")
    assert duplicate["output"].startswith("Error: ")


def test_status_of_a_server_that_is_down(llamactl: Run) -> None:
    (done,) = llamactl([["-s", "http://127.0.0.1:9", "status"]])
    assert done["output"] == "LlamaDeploy is unhealthy: API Server is down\n"


def test_a_profile_names_the_server(deployed: Any, llamactl: Run) -> None:
    outputs = llamactl([
        ["config", "current-profile"],
        ["config", "set-profile-vars", "server", deployed[1].api_url],
        ["config", "get-profiles"],
        ["status"],
        ["run", "-d", "shop", "-a", "message", "profile"],
        ["config", "set-profile-vars", "timeout", "30"],
    ])  # fmt: skip
    assert [each["exit_code"] for each in outputs] == [0] * 6, outputs
    assert outputs[0]["output"] == "default\n"
    assert deployed[1].api_url in outputs[2]["output"]
    assert outputs[3]["output"].endswith("- shop\n")
    assert outputs[4]["output"] == "echo: profile\n"


def test_deploy_with_base_path(deployed: Any, llamactl: Run, tmp_path: Path) -> None:
    """The sources lie beside the base path, the file elsewhere; then a reload of the same."""
    server = ["-s", deployed[1].api_url]
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(deployed[1].deployment_file.read_text())
    base = ["--base-path", str(deployed[1].folder), str(elsewhere)]
    (reload,) = llamactl([[*server, "deploy", "--reload", *base]])
    assert reload == {"exit_code": 0, "output": "Deployment successful: shop\n"}


def test_the_console_script(deployed: Any, compat_python: Path) -> None:
    """Everything above ran the commands in one process; once through the real script."""
    done = subprocess.run(
        [str(compat_python.with_name("llamactl")), "-s", deployed[1].api_url, "status"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("- shop\n")
