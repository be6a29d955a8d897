"""docs/deployment-file.md: its examples load, and it names every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamadeploy.spec import SpecError, load_deployment
from llamadeploy.spec.deployment_file import (
    QUEUE_SECTIONS,
    ControlPlaneSection,
    DeploymentFile,
    ServiceSection,
)

TEXT = (Path(__file__).parents[3] / "docs" / "deployment-file.md").read_text()
EXAMPLES = [
    block for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) if "services:" in block
]


def test_the_examples_load():
    assert [list(load_deployment(text).services) for text in EXAMPLES] == [["echo_workflow"]] * 2


@pytest.mark.parametrize(
    "model",
    [
        DeploymentFile,
        ControlPlaneSection,
        ServiceSection,
        *(section for kind, section in QUEUE_SECTIONS.items() if kind != "solace"),
    ],
)
def test_every_key_is_named(model):
    keys = [field.alias or name for name, field in model.model_fields.items()]
    assert [key for key in keys if f"`{key}`" not in TEXT] == []


def test_the_mistakes_look_as_shown():
    shown = re.findall(r"^deployment\.yaml:\d+: .*$", TEXT, re.MULTILINE)
    wrong = """name: d
control-plane:
  prot: 1
services:
  echo:
    name: Echo
    source:
      type: local
      name: src
    path: workflow:w
    env:
      A: b
    max-retries: 1
    replicas: -1
"""
    with pytest.raises(SpecError) as caught:
        load_deployment(wrong, file="deployment.yaml")
    assert str(caught.value).splitlines() == shown
