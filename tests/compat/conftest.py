"""Servers and drivers of the compatibility suite.

The suite runs the SDK and the `llamactl` of llama-deploy 0.8.1, in an environment of their own,
against our server. `LLAMADEPLOY_COMPAT_TARGET=original` points the same drivers at the original
server instead, which proves the drivers; tests marked `original_differs` then must fail.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TARGET = os.environ.get("LLAMADEPLOY_COMPAT_TARGET", "ours")

# `benchmarks` is a package of the repository, not of the distribution.
sys.path.append(str(ROOT))

from benchmarks.environment import EnvironmentUnavailable, original_python  # noqa: E402
from benchmarks.servers import (  # noqa: E402
    Server,
    Service,
    create,
    original,
    ours,
    wait_for_services,
)

SERVICES = {
    "echo": Service("workflow:echo"),
    "counter": Service("workflow:counter"),
    "streamer": Service("workflow:streamer"),
    "ask": Service("workflow:ask"),
    "wait": Service("workflow:wait"),
    "fail": Service("workflow:fail"),
    "slow": Service("workflow:slow"),
    "llama_index_echo": Service("legacy_import:echo"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "original_differs(reason, strict=True): 0.8.1 itself fails this (sometimes, "
        "unless strict); ours must not",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if TARGET != "original":
        return
    for item in items:
        differs = item.get_closest_marker("original_differs")
        if differs:
            strict = differs.kwargs.get("strict", True)
            item.add_marker(pytest.mark.xfail(reason=differs.args[0], strict=strict))


@pytest.fixture(scope="session")
def compat_python() -> Path:
    """A Python with the real llama-deploy 0.8.1; no skip where the suite must run (CI)."""
    try:
        return original_python()
    except EnvironmentUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(f"no environment for llama-deploy 0.8.1: {error}")


@pytest.fixture(scope="session")
def service() -> type[Service]:
    """The class that describes a service to `start_server`."""
    return Service


@pytest.fixture(scope="session")
def start_server(
    compat_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`start_server(name, services)`: a context manager with a server and `name` deployed."""

    def start(name: str, services: dict[str, Service]) -> Any:
        folder = tmp_path_factory.mktemp(name, numbered=True) / name
        folder.mkdir()
        target = original if TARGET == "original" else ours
        return target(folder, HERE / "source" / "src", services)

    return start


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Any]) -> Iterator[Server]:
    """A server with the deployment `compat` and every service of `SERVICES`."""
    with start_server("compat", SERVICES) as running:
        create(running)
        wait_for_services(running, SERVICES)
        yield running


@pytest.fixture(scope="session")
def services_ready() -> Callable[..., None]:
    """`services_ready(server, names)`: wait until the control plane knows these services."""
    return wait_for_services


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body as ndjson."""
        return [json.loads(line) for line in self.body.splitlines()]


@pytest.fixture(scope="session")
def call() -> Callable[..., Reply]:
    """`call(method, url, body=None, headers={})`: one request, redirects not followed.

    `body` is sent as JSON unless it is bytes.
    """

    def send(
        method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        address = urllib.parse.urlsplit(url)
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(address.netloc, timeout=30)
        try:
            target = f"{address.path}?{address.query}" if address.query else address.path
            connection.request(
                method, target, content, {"content-type": "application/json", **(headers or {})}
            )
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, names, reply.read())
        finally:
            connection.close()

    return send


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """`eventually(read)`: the first result of `read()` that is not None, within 30 s."""

    def wait(read: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            value = read()
            if value is not None:
                return value
            time.sleep(0.05)
        raise AssertionError("nothing within 30 s")

    return wait


@pytest.fixture(scope="session")
def ask(
    compat_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Any]]:
    """`ask(driver, **arguments)`: what `run(**arguments)` of drivers/`driver`.py returns.

    One process for the session: importing llama-deploy 0.8.1 takes four seconds.
    """
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [str(compat_python), str(HERE / "drivers")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=_environment(home),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    requests, replies = process.stdin, process.stdout

    def run(driver: str, **arguments: Any) -> Any:
        requests.write(json.dumps({"driver": driver, "arguments": arguments}) + "\n")
        requests.flush()
        line = replies.readline()
        assert line, f"the driver process ended with {process.wait(10)}"
        reply = json.loads(line)
        assert "error" not in reply, reply["error"]
        return reply["value"]

    yield run
    requests.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    replies.close()


def _environment(home: Path) -> dict[str, str]:
    """A home of its own for llamactl's configuration, and no certificates to load: the SDK makes
    a TLS context for every request, and the whole bundle costs 25 ms each time."""
    certificates = home / "no-certificates"
    certificates.mkdir()
    return os.environ | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "SSL_CERT_DIR": str(certificates),
    }


@pytest.fixture(scope="session")
def drive(ask: Callable[..., Any], server: Server) -> Callable[..., dict[str, Any]]:
    """`drive("sdk_core", sync=True)`: results by step of a driver, against `server`."""

    def run(driver: str, sync: bool = False) -> dict[str, Any]:
        results: dict[str, Any] = ask(
            driver, api=server.api_url, control_plane=server.control_plane_url,
            deployment="compat", sync=sync,
        )  # fmt: skip
        return results

    return run


@pytest.fixture(scope="session")
def llamactl(ask: Callable[..., Any]) -> Callable[[list[list[str]]], list[dict[str, Any]]]:
    """Outputs and exit codes of 0.8.1's `llamactl` for several lists of arguments."""

    def run(commands: list[list[str]]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = ask("llamactl", commands=commands)
        return results

    return run
