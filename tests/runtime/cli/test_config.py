from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from llamadeploy.cli import llamactl

Run = Callable[..., Result]


def stored(file: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(file.read_text())
    return content


def test_profiles_are_listed_with_the_current_one_marked(run: Run) -> None:
    result = run("config", "get-profiles")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert any("*" in line and "default" in line for line in lines)
    assert any("*" not in line and "other" in line for line in lines)


def test_use_profile_changes_the_current_one(run: Run) -> None:
    assert run("config", "use-profile", "other").exit_code == 0
    assert run("config", "current-profile").output == "other\n"


def test_set_profile_vars_is_stored_and_said(run: Run, config_file: Path) -> None:
    result = run("config", "set-profile-vars", "server", "http://example.com:4501")
    assert result.output == "Set server=http://example.com:4501 for profile 'default'\n"
    profiles = stored(config_file)["profiles"]
    assert isinstance(profiles, dict)
    assert profiles["default"]["server"] == "http://example.com:4501"


@pytest.mark.parametrize(
    ("param", "value", "said"),
    [
        ("server", "not a url", "Error setting server=not a url"),
        ("insecure", "perhaps", "Error setting insecure=perhaps"),
        ("timeout", "soon", "Error setting timeout=soon"),
        ("timeout", "-1", "Error setting timeout=-1"),
        ("colour", "red", "Unknown parameter 'colour'. A profile has: server, insecure, timeout."),
    ],
)
def test_a_wrong_value_changes_nothing(
    run: Run, config_file: Path, param: str, value: str, said: str
) -> None:
    before = config_file.read_text()
    result = run("config", "set-profile-vars", "--", param, value)
    assert result.exit_code == 1
    assert said in result.output
    assert config_file.read_text() == before


def test_delete_and_rename(run: Run, config_file: Path) -> None:
    assert "currently in use" in run("config", "delete-profile", "default").output
    assert run("config", "rename-profile", "default", "main").exit_code == 0
    assert stored(config_file)["current_profile"] == "main"
    assert "already exists" in run("config", "rename-profile", "main", "other").output
    assert run("config", "delete-profile", "other").output == "Profile 'other' has been deleted.\n"
    assert set(stored(config_file)["profiles"]) == {"main"}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "command", [["use-profile", "x"], ["delete-profile", "x"], ["rename-profile", "x", "y"]]
)
def test_an_unknown_profile_is_named(run: Run, command: list[str]) -> None:
    result = run("config", *command)
    assert result.exit_code == 1
    assert result.output == "Error: Cannot find profile 'x' in the config file.\n"


def test_an_unknown_profile_option_lists_the_known_ones(run: Run) -> None:
    result = run("-p", "nope", "status")
    assert result.exit_code == 1
    assert "Profile nope does not exist. The file has: default, other." in result.output


def test_a_named_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(llamactl, ["-c", str(tmp_path / "no.yaml"), "status"])
    assert result.exit_code == 1
    assert "does not exist" in result.output


def test_a_broken_file_is_an_error_that_names_it(run: Run, config_file: Path) -> None:
    config_file.write_text("profiles: {default: {sever: x}}")
    result = run("status")
    assert result.exit_code == 1
    assert str(config_file) in result.output
    assert "sever" in result.output
