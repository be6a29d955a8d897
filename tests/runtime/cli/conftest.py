from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
