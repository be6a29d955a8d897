from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llamadeploy.cli import llamactl


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text("current_profile: default\nprofiles: {default: {}, other: {}}\n")
    return file


@pytest.fixture
def run(config_file: Path) -> Callable[..., Result]:
    """Runs llamactl with a configuration file of the test's own."""

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(llamactl, ["--config", str(config_file), *args])

    return invoke


@pytest.fixture(scope="session")
def cli_server(live_server: Any) -> Any:
    """A server with the deployment ``shop``, made by ``llamactl deploy``."""
    file = live_server.file("shop")
    done = CliRunner().invoke(llamactl, ["-s", live_server.url, "deploy", str(file)])
    assert done.exit_code == 0, done.output
    assert done.stdout == "Deployment successful: shop\n"
    live_server.deploy_output = done.stderr
    return live_server


@pytest.fixture
def ctl(cli_server: Any, config_file: Path) -> Callable[..., Result]:
    """``ctl("tasks", "-d", "shop")``: runs llamactl against that server."""

    def invoke(*args: str, code: int = 0, input: str | None = None) -> Result:
        line = ["--config", str(config_file), "-s", cli_server.url, *args]
        done = CliRunner().invoke(llamactl, line, input=input)
        assert done.exit_code == code, f"{args}: {done.output}"
        return done

    return invoke
