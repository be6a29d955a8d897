"""When a removed service may go."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from llamadeploy_operator import names
from llamadeploy_operator.draining import Depth, may_end, removed_at, stamp
from llamadeploy_operator.settings import OPTIONS

NOW = 1_800_000_000.0


def body(text: str | None) -> dict[str, Any]:
    annotations = {} if text is None else {names.REMOVED_ANNOTATION: text}
    return {"metadata": {"annotations": annotations}}


@pytest.mark.parametrize("left", ["ready", "unacked", "custody", "parked"])
def test_a_service_stays_until_nothing_is_left_or_its_time_is_over(left: str) -> None:
    depth = Depth(**{left: 1})
    assert not may_end(depth, NOW - 59, NOW, 60)
    assert may_end(depth, NOW - 60, NOW, 60)
    assert may_end(Depth(), NOW, NOW, 60)


def test_a_service_whose_control_plane_is_away_stays() -> None:
    assert not may_end(None, NOW - 1e9, NOW, 60)


def test_the_moment_of_removal_is_read_as_it_was_written() -> None:
    assert removed_at(body(stamp(NOW))) == NOW
    assert removed_at(body(None)) is None
    assert removed_at({"metadata": {}}) is None
    # Whatever a person wrote there, the service does not stay for ever.
    assert removed_at(body("yesterday")) == 0.0


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ("http://{service}.{namespace}.example:8000", True),
        ("http://127.0.0.1:8000", True),
        ("ftp://{service}", False),
        ("http://{name}", False),
        ("http://{service", False),
        ("http://{service.__class__.x}", False),
    ],
)
def test_url_templates_are_checked_at_the_start(given: str, good: bool) -> None:
    @click.command()
    def command(**options: Any) -> None:
        pass

    for option in OPTIONS:
        option(command)
    result = CliRunner().invoke(command, ["--control-plane-url-template", given])
    assert (result.exit_code == 0) == good, result.output
    assert good or "{service} and {namespace}" in result.output
