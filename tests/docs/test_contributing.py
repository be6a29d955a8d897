"""The how-tos are short, and the files that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "contributing").glob("*.md"))
HOW_TO = ("message-queue", "state-store", "child-kind", "crd-field")
"""Pages that say how to add something; one screen each."""
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))

FOLDERS = [
    ROOT / each
    for each in (
        ".", "runtime/llamadeploy", "runtime/llamadeploy/state_stores",
        "operator/llamadeploy_operator", "operator/llamadeploy_operator/desired",
        "helm/llamadeploy-operator", "e2e", "e2e/scenarios",
        "tests/operator/desired", "tests/runtime/spec", "tests/runtime/state_stores",
    )
]  # fmt: skip
EXAMPLES = ("nats", "mysql", "http_route", "dist/")
"""What is to be added, or made, does not exist yet."""

PATH = re.compile(r"`([\w./-]+(?:\.py|\.md|\.toml|\.yaml|/))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_files_that_exist(page: Path) -> None:
    text = page.read_text()
    assert page.stem not in HOW_TO or len(text.splitlines()) <= 40
    named = [path for path in PATH.findall(text) if not any(word in path for word in EXAMPLES)]
    assert len(named) >= 5
    inside = re.compile(
        r"`(runtime/llamadeploy/[\w/]+|operator/[\w/]+|tests/[\w/]+)/(?:nats|mysql)"
    )
    named += inside.findall(text)
    missing = [path for path in named if not any((folder / path).exists() for folder in FOLDERS)]
    assert not missing
    for target in re.findall(r"make ((?:[a-z0-9-]+[ `,.])+)", text):
        targets = set(re.findall(r"[a-z0-9-]+", target.split("`")[0]))
        known = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
        assert targets <= known


def test_decisions_are_numbered_and_say_what_was_not_taken() -> None:
    assert len(DECISIONS) >= 10
    index = (ROOT / "docs" / "decisions" / "index.md").read_text()
    for number, page in enumerate(DECISIONS, 1):
        title, *rest = page.read_text().splitlines()
        assert page.name.startswith(f"{number:04}-") and title.startswith(f"# {number}. ")
        heads = [line for line in rest if line.startswith("## ")]
        assert heads == ["## Context", "## Decision", "## Consequences", "## Not taken"]
        assert f"- [{title[2:]}]({page.name})" in index


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    shown = re.search(r"grep -E '(.*?)'", text)
    assert shown and shown[1].startswith("^[a-z0-9-]+:"), "the help would hide some"
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.M).group(1).split())  # type: ignore[union-attr]
    described = set(re.findall(r"^([a-z0-9-]+):.*## ", text, re.M))
    targets = set(re.findall(r"^([a-z0-9-]+):", text, re.M))
    assert phony == described == targets
