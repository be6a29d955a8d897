"""An API server in a process of its own, with front ends that need no package registry."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

HERE = Path(__file__).parent
PYTHON = sys.executable


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def group(pid: int) -> list[int]:
    """Every live process of the group of ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


async def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """The first true value of ``condition`` (which may be async)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Server:
    """A running API server; also how tests reach the helpers of this file."""

    alive, group, until = staticmethod(alive), staticmethod(group), staticmethod(until)

    def __init__(
        self, process: asyncio.subprocess.Process, url: str, project: Path, data_dir: Path
    ) -> None:
        self.process = process
        self.data_dir = data_dir
        self.url = url
        self.project = project
        self.http: aiohttp.ClientSession

    def file(self, name: str, **ui: Any) -> str:
        """A deployment file with a UI alone: no worker to wait for."""
        front = {"name": "ui", "source": {"type": "local", "name": "frontend"}, **ui}
        content = {"name": name, "control-plane": {}, "services": {}, "ui": front}
        return yaml.safe_dump(content, sort_keys=False)

    async def deploy(self, text: str, *, reload: bool = False) -> tuple[int, Any]:
        form = aiohttp.FormData()
        form.add_field("config_file", text, filename="deployment.yaml")
        query = {"base_path": str(self.project), "reload": str(reload).lower()}
        async with self.http.post("/deployments/create", data=form, params=query) as reply:
            return reply.status, await reply.json()

    async def deployed(self, name: str, *, reload: bool = False, **ui: Any) -> dict[str, Any]:
        """Deploy with these settings of the UI; what status says of it then."""
        status, body = await self.deploy(self.file(name, **ui), reload=reload)
        assert status == 200, body
        return await self.ui(name)

    def data(self, name: str) -> Path:
        """The deployment's folder in the data directory."""
        return self.data_dir / name

    async def delete_all(self) -> None:
        async with self.http.get("/deployments/") as reply:
            names = [each["name"] for each in await reply.json()]
        for name in names:
            async with self.http.delete(f"/deployments/{name}") as reply:
                assert reply.status == 200

    async def details(self, name: str) -> dict[str, Any]:
        async with self.http.get("/status/") as reply:
            return dict((await reply.json())["details"][name])

    async def ui(self, name: str) -> dict[str, Any]:
        return dict((await self.details(name))["ui"])

    async def ui_or_none(self, name: str) -> Any:
        return (await self.details(name))["ui"]

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.http.get(path, **options) as reply:
            return reply.status, json.loads(await reply.read() or b"null")

    async def hello(self, name: str) -> dict[str, Any]:
        status, body = await self.get(f"/ui/{name}/hello")
        assert status == 200, body
        return dict(body)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def running(
    folder: Path, project: Path, *arguments: str, **env: str
) -> AsyncIterator[Server]:
    """An API server whose data is in ``folder``."""
    with (folder.parent / "server.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "llamadeploy", "api-server", "--port", "0",
            "--data-dir", str(folder), *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=output, cwd=folder.parent,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("LLAMA")}, **env},
        )  # fmt: skip
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line, (folder.parent / "server.log").read_text()
    server = Server(process, line.split()[-1], project, folder)
    try:
        async with aiohttp.ClientSession(server.url) as server.http:
            yield server
    finally:
        await server.stop()


def make_project(folder: Path) -> Path:
    """A folder of deployment files with the source ``frontend``."""
    folder.mkdir()
    shutil.copytree(HERE / "frontend", folder / "frontend")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def serve(tmp_path: Path, project: Path) -> Callable[..., Any]:
    """``async with serve(*arguments, **env) as server``, always with the same data directory."""
    return lambda *arguments, **env: running(tmp_path / "data", project, *arguments, **env)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server for the tests of a module."""
    folder = tmp_path_factory.mktemp("ui")
    async with running(folder / "data", make_project(folder / "project")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fronts(module_server: Server) -> Server:
    """The module's server with the deployments ``one`` and ``two``."""
    await asyncio.gather(
        module_server.deployed("one", env={"GREETING": "hello from one"}),
        module_server.deployed("two", env={"GREETING": "hello from two"}),
    )
    return module_server


@pytest_asyncio.fixture(loop_scope="module")
async def server(module_server: Server, project: Path) -> AsyncIterator[Server]:
    """The module's server, empty, with a project of the test's own."""
    module_server.project = project
    yield module_server
    await module_server.delete_all()
