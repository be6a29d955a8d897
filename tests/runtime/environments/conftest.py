"""Building environments for a source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llamadeploy.commands import Cancellation
from llamadeploy.environments.cache import Environment, EnvironmentCache
from llamadeploy.environments.dependencies import Dependencies


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the machine's pip and uv change nothing here."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name == "LLAMADEPLOY_INDEX_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A service's source."""
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def cache(tmp_path: Path) -> EnvironmentCache:
    return EnvironmentCache(tmp_path / "environments")


@pytest.fixture
def build(cache: EnvironmentCache, source: Path) -> Callable[..., Environment]:
    """``build(*python_dependencies)``; what it told is in ``build.progress``."""

    class Build:
        def __init__(self) -> None:
            self.progress: list[str] = []

        def __call__(self, *arguments: str) -> Environment:
            dependencies = Dependencies.read(arguments, [source])
            return cache.prepare(dependencies, Cancellation(), self.progress.append)

    return Build()
