"""Each component loads its own broker and store, and nothing of the others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from llamadeploy.testing import HOST, Cluster, free_port

WORKFLOW = """\
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent


class Echo(Workflow):
    @step
    async def echo(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="echo")


echo = Echo()
"""
#: Top-level packages, by what needs them.
ADAPTERS = {
    "redis": {"redis", "hiredis"},
    "rabbitmq": {"aio_pika", "aiormq", "pamqp"},
    "postgresql": {"asyncpg"},
    "sqlite": {"sqlite3"},
}
SERVERS = {"fastapi", "uvicorn"}
NEVER = {"kopf", "kubernetes", "rich", "pygments", "llama_index.core", "numpy", "pip"}
TOKEN = "t"


def loaded(log: Path) -> set[str]:
    """Packages that a process with ``-X importtime`` has imported, with one level below."""
    names = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", log.read_text(), re.M)
    return {".".join(name.split(".")[:2]) for name in names} | {n.split(".")[0] for n in names}


def cluster(folder: Path, **more: Any) -> Cluster:
    return Cluster(
        folder, WORKFLOW, services={"echo": {}}, api_token=TOKEN,
        python=(sys.executable, "-X", "importtime"), **more,
    )  # fmt: skip


async def test_simple_with_sqlite(tmp_path: Path) -> None:
    port = free_port()
    made = cluster(
        tmp_path, queue_type="simple", queue_url=f"http://worker:{TOKEN}@{HOST}:{port}",
        queue_port=port, orchestrators=0, state_store_uri=f"sqlite:///{tmp_path}/state.db",
    )  # fmt: skip
    async with made:
        control_plane = loaded(made.control_planes[0].log)
        worker = loaded(made.workers["echo"][0].log)
    others = ADAPTERS["redis"] | ADAPTERS["rabbitmq"] | ADAPTERS["postgresql"]
    assert not (others | NEVER) & (control_plane | worker)
    assert "sqlite3" in control_plane and "sqlite3" not in worker
    assert "workflows" in worker and "workflows" not in control_plane
    assert not SERVERS & worker


async def test_redis(tmp_path: Path, redis_server: Any) -> None:
    uri = redis_server.uri
    made = cluster(tmp_path, queue_type="redis", queue_url=uri, state_store_uri=uri)
    async with made:
        logs = {each.name: loaded(each.log) for each in made.processes}
    others = ADAPTERS["sqlite"] | ADAPTERS["rabbitmq"] | ADAPTERS["postgresql"]
    for name, found in logs.items():
        assert not (others | NEVER) & found, name
        assert "redis" in found, name
    assert "workflows" not in logs["control-plane-0"] | logs["orchestrator-0"]
    assert not SERVERS & logs["echo-0"]


def test_operator(tmp_path: Path) -> None:
    script = "import sys, llamadeploy_operator.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = {name.split(".")[0] for name in done.stdout.split()}
    assert "kopf" in found
    assert not set().union(*ADAPTERS.values(), SERVERS, {"workflows", "rich", "numpy"}) & found
