from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

from llamadeploy.cli.main import COMMANDS

Run = Callable[..., Result]


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    result = run()
    assert result.exit_code == 0
    assert "Usage: llamactl" in result.output
    for name in COMMANDS:
        assert name in result.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(run: Run, name: str) -> None:
    result = run(name, "-h")
    assert result.exit_code == 0, result.output
    assert f"Usage: llamactl {name}" in result.output


def test_version(run: Run) -> None:
    assert run("--version").output.startswith("llamactl, version ")


def test_status_of_a_server_that_is_down_says_so_and_fails(run: Run) -> None:
    result = run("-s", "http://127.0.0.1:9", "status")
    assert result.exit_code == 1
    assert "LlamaDeploy is unhealthy: no API server answers at http://127.0.0.1:9" in result.output


@pytest.mark.parametrize("command", [["run", "-d", "x"], ["sessions", "create", "-d", "x"]])
def test_a_server_that_is_down_is_an_error_with_a_cure(run: Run, command: list[str]) -> None:
    result = run("-s", "http://127.0.0.1:9", *command)
    assert result.exit_code == 1
    assert "Error: no API server answers at http://127.0.0.1:9" in result.output
    assert "llamactl serve" in result.output
