"""What the README says is so."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from llamadeploy.spec.loader import load_deployment

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in target]
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_name_what_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    code = "\n".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S))
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= targets
    for path in re.findall(r"\b(?:helm|examples)/[\w./-]+", code):
        assert (ROOT / path).exists(), path


def test_the_deployment_is_valid() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)
    assert yaml.safe_load(text)["metadata"]["name"] == load_deployment(text).name
