"""Tiny packages, and an index that serves them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


class Index:
    """A package index of files, and the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.logins: list[str] = []
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        handler = partial(_IndexRequest, directory=str(folder))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.index = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self._http.server_address[1]}/simple/"

    def add(self, wheel: Path) -> None:
        name = wheel.name.partition("-")[0].replace("_", "-")
        folder = self.folder / "simple" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        names = sorted(path.name for path in folder.glob("*.whl"))
        links = "".join(f'<a href="{each}">{each}</a>' for each in names)
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _IndexRequest(SimpleHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        index: Index = self.server.index
        index.requests.append(self.path)
        if login := self.headers.get("Authorization"):
            index.logins.append(login)
        if index.hold is not None:
            index.held.set()
            index.hold.wait(30)
        with contextlib.suppress(ConnectionError):  # the installer was ended meanwhile
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / "index").mkdir()
    server = Index(tmp_path / "index")
    yield server
    server.stop()
