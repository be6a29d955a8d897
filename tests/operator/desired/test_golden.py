"""Whole sets of children that a person can review: ``--write-golden`` writes them anew."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in (Path(__file__).parent / "inputs").glob("*.yaml"))


class _Dumper(yaml.SafeDumper):
    """Block style for texts of several lines, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _dump(children: list[dict[str, Any]]) -> str:
    return yaml.dump_all(children, Dumper=_Dumper, sort_keys=False, width=100)


@pytest.mark.parametrize("name", CASES)
def test_children_are_as_reviewed(
    name: str, load: Callable[[str], Any], request: pytest.FixtureRequest
) -> None:
    text = _dump(load(name).children)
    file = GOLDEN / f"{name}.yaml"
    if request.config.getoption("--write-golden"):
        file.write_text(text)
    known = file.read_text() if file.is_file() else ""
    lines = difflib.unified_diff(
        known.splitlines(), text.splitlines(), str(file.name), "now", lineterm=""
    )
    difference = "\n".join(lines)
    assert not difference, f"{difference}\nreview it, then run with --write-golden"


@pytest.mark.parametrize("name", CASES)
def test_same_context_gives_same_bytes(name: str, load: Callable[[str], Any]) -> None:
    assert _dump(load(name).children) == _dump(load(name).children)


@pytest.mark.parametrize("name", CASES)
def test_no_child_twice(name: str, load: Callable[[str], Any]) -> None:
    keys = [(each["kind"], each["metadata"]["name"]) for each in load(name).children]
    assert len(keys) == len(set(keys))


def pods(children: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template, with its workload's name."""
    for each in children:
        template = each.get("spec", {}).get("template")
        if each["kind"] in ("Deployment", "StatefulSet", "Job") and template:
            yield f"{each['kind']}/{each['metadata']['name']}", template


@pytest.mark.parametrize("name", CASES)
def test_pods_meet_the_restricted_standard(
    name: str, load: Callable[[str], Any], restricted: Callable[[dict[str, Any]], list[str]]
) -> None:
    found = dict(pods(load(name).children))
    assert found
    assert {workload: restricted(pod["spec"]) for workload, pod in found.items()} == {
        workload: [] for workload in found
    }


@pytest.mark.parametrize("name", CASES)
def test_no_secret_in_the_clear(name: str, load: Callable[[str], Any]) -> None:
    others = [each for each in load(name).children if each["kind"] != "Secret"]
    text = _dump(others)
    assert "pass@" not in text and ":word@" not in text


@pytest.mark.parametrize("name", CASES)
def test_selectors_find_their_pods_alone(name: str, load: Callable[[str], Any]) -> None:
    workloads = [
        each for each in load(name).children if each["kind"] in ("Deployment", "StatefulSet")
    ]
    assert workloads
    for each in workloads:
        wanted = each["spec"]["selector"]["matchLabels"].items()
        matching = [
            other["metadata"]["name"]
            for other in workloads
            if wanted <= other["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert matching == [each["metadata"]["name"]]
