"""docs/cli.md says what the commands' own help says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamadeploy.cli.main import COMMANDS
from llamadeploy.cli.reference import BEGIN, updated

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"


def test_the_reference_is_up_to_date() -> None:
    text = DOCUMENT.read_text()
    assert text == updated(text), "run: python -m llamadeploy.cli.reference"


def test_every_command_is_in_it() -> None:
    headings = set(re.findall(r"^### `llamactl ?(.*)`$", DOCUMENT.read_text(), re.MULTILINE))
    assert set(COMMANDS) <= headings
    assert {"services scale", "dead-letters retry", "config use-profile"} <= headings


def test_the_hand_written_part_names_commands_and_options_that_exist() -> None:
    head, _, generated = DOCUMENT.read_text().partition(BEGIN)
    for command in re.findall(r"`llamactl (?:-s \S+ )?([a-z-]+)", head):
        assert f"### `llamactl {command}`" in generated
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", head)):
        assert option in generated, option


def test_a_document_without_the_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="has no line"):
        updated("# something else")


def test_nothing_in_it_depends_on_the_machine() -> None:
    assert str(Path.home()) not in DOCUMENT.read_text()
