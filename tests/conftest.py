"""Loads the fixtures of ``brokers/``, real brokers and stores, one file for each, and those of a
real Kubernetes API server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def pytest_configure(config: pytest.Config) -> None:
    folder = Path(__file__).parent / "brokers"
    # First what the others import. The folder itself must not be in the path: its names are those
    # of client libraries.
    shared = folder / "servers.py"
    _load("tests.brokers.servers", shared)
    for path in sorted(set(folder.glob("*.py")) - {shared}):
        name = f"brokers_{path.stem}"
        config.pluginmanager.register(_load(name, path), name)
    name = "kubernetes_fixtures"
    config.pluginmanager.register(_load(name, Path(__file__).with_name(f"{name}.py")), name)


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """RabbitMQ takes its time to be installed and started, and to notice that it was killed."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "rabbitmq" in item.nodeid or any("rabbitmq" in name for name in fixtures):
            item.add_marker(pytest.mark.timeout(240))
