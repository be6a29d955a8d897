"""docs/processes.md names variables that exist."""

from __future__ import annotations

import re
from pathlib import Path

from llamadeploy.settings import PREFIX, PodSettings, variable
from llamadeploy.worker.process import HEALTH_HOST, HEALTH_PORT

DOCUMENT = Path(__file__).parents[2] / "docs" / "processes.md"


def test_every_variable_is_one_of_ours() -> None:
    text = DOCUMENT.read_text()
    known = {variable(name) for name in PodSettings.model_fields} | {HEALTH_HOST, HEALTH_PORT}
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", text))
    assert len(named) > 15
    assert named <= known
    # Those whose prefix is left out in the text.
    (rest,) = re.findall(r"There are\nalso(.*?)each with the prefix", text, re.DOTALL)
    assert {PREFIX + name for name in re.findall(r"`([A-Z_]+)`", rest)} <= known


def test_its_settings_are_valid() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    settings = PodSettings.from_env(dict(line.split("=", 1) for line in lines if line))
    settings.require("service", "control_plane_url", "workflow_path", "source_dir", "signing_keys")
    assert settings.queue_options == {"exclusive_mode": True}
