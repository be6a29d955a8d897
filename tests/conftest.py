"""Loads the fixtures of ``brokers/``: real brokers and stores, one file for each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    for path in sorted((Path(__file__).parent / "brokers").glob("*.py")):
        name = f"brokers_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config.pluginmanager.register(module, name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """RabbitMQ takes its time to be installed and started, and to notice that it was killed."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "rabbitmq" in item.nodeid or any("rabbitmq" in name for name in fixtures):
            item.add_marker(pytest.mark.timeout(240))
