"""``llamadeploy``: every process by its name, loaded when it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llamadeploy._version import __version__


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA")}
    return subprocess.run(
        [sys.executable, "-m", "llamadeploy", *arguments],
        capture_output=True, text=True, timeout=60, env={**kept, **environ},
    )  # fmt: skip


def test_version() -> None:
    assert run("--version").stdout == f"llamadeploy, version {__version__}\n"


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ()])
def test_help_names_every_process_and_where_to_start(arguments: tuple[str, ...]) -> None:
    shown = run(*arguments)
    text = shown.stdout + shown.stderr
    for name in ("api-server", "control-plane", "worker", "orchestrator", "llamactl serve FILE"):
        assert name in text


def test_help_of_a_process_is_its_own() -> None:
    shown = run("api-server", "--help")
    assert shown.returncode == 0
    assert "Usage: llamadeploy api-server [OPTIONS] [FILE]" in shown.stdout
    assert "--data-dir" in shown.stdout


@pytest.mark.parametrize("name", ["prepare", "resolve", "worker"])
def test_processes_without_options_say_where_their_settings_are(name: str) -> None:
    shown = run(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "LLAMADEPLOY_* variables" in shown.stdout
    assert "Raises" not in shown.stdout
    wrong = run(name, "--port", "1")
    assert wrong.returncode == 2
    assert "No such option" in wrong.stderr


def test_help_loads_no_process() -> None:
    code = (
        "import sys\nfrom llamadeploy.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'fastapi', 'workflows', 'aiohttp', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_orchestrator_needs_a_shared_queue_and_store() -> None:
    said = run("orchestrator", LLAMADEPLOY_STATE_STORE_URI="sqlite:///x.db")
    assert said.returncode == 1
    assert "runs inside the control plane" in said.stderr
    assert "LLAMADEPLOY_QUEUE_TYPE" in said.stderr


def test_an_unknown_process_is_an_error() -> None:
    failed = run("wroker")
    assert failed.returncode == 2
    assert "wroker" in failed.stderr


def test_a_worker_without_settings_says_which_are_missing() -> None:
    failed = run("worker")
    assert failed.returncode == 2
    assert "LLAMADEPLOY_SERVICE is not set" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "x"), "'x' is not a valid integer"),
        (("--unknown",), "No such option"),
        (("--drain-seconds", "-1"), "-1.0 is not in the range"),
        (("a.yaml", "b.yaml"), "unexpected extra argument"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], message: str) -> None:
    failed = run("api-server", *arguments)
    assert failed.returncode == 2
    assert message in failed.stderr
