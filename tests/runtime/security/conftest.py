"""Servers of other folders' tests, and a client that sends what no library would."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def _sibling(package: str) -> ModuleType:
    """The fixtures of another folder of tests."""
    name = f"security_fixtures_of_{package}"
    path = Path(__file__).parents[1] / package / "conftest.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_servers = _sibling("api_server")
start_server, server, project = _servers.start_server, _servers.server, _servers.project
_planes = _sibling("control_plane")
open_plane, wait_until = _planes.open_plane, _planes.wait_until


def _raw(url: str, data: bytes, *, timeout: float = 20) -> tuple[int, bytes]:
    """Send bytes as they are; the status and everything of the answer, up to its end."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        answer = b""
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:
            pass  # it answered and closed while we were still sending
    return (int(answer.split(b" ", 2)[1]) if answer else 0), answer


@pytest.fixture(scope="session")
def raw() -> Callable[..., tuple[int, bytes]]:
    return _raw
