"""Servers to be scraped, and samples as plain numbers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families


def _sibling(package: str) -> ModuleType:
    """The fixtures of another folder of tests."""
    name = f"fixtures_of_{package}"
    path = Path(__file__).parents[1] / package / "conftest.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


start_server = _sibling("api_server").start_server
plane = _sibling("worker").plane


class Samples:
    """A scrape. ``samples("tasks_total", service="echo")`` adds up what has these labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))

    def __call__(self, name: str, **labels: str) -> float:
        found = [
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == f"llamadeploy_{name}" and labels.items() <= sample.labels.items()
        ]
        assert found, f"no sample {name} with {labels} in\n{self.text}"
        return sum(found)

    def label(self, name: str, label: str) -> set[str]:
        """The values of a label."""
        return {
            sample.labels[label]
            for family in self.families
            for sample in family.samples
            if sample.name == f"llamadeploy_{name}"
        }


@pytest.fixture(scope="session")
def read() -> Callable[[Any], Samples]:
    """A scrape's text as :class:`Samples`."""
    return Samples
