"""What a worker process tells on its health port."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from llamadeploy.settings import PodSettings

WORKFLOW = """
import asyncio, os
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Served(Workflow):
    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        while "gate" in ev and not os.path.exists(ev.gate):
            await asyncio.sleep(0.01)
        if "error" in ev:
            raise ValueError(ev.error)
        return StopEvent(result="done")

workflow = Served(timeout=None)
"""


async def test_a_worker_counts_what_it_did(plane: Any, tmp_path: Path, read: Any) -> None:
    (tmp_path / "workflow.py").write_text(WORKFLOW)
    ready, announced = os.pipe()
    settings = PodSettings(
        deployment="measured",
        service="echo",
        namespace="tests.worker",
        queue_url=SecretStr(plane.queue_url),
        control_plane_url=plane.url,
        workflow_path="workflow:workflow",
        source_dir=tmp_path,
        signing_keys=SecretStr(plane.keyring.dump()),
        max_concurrent_tasks=3,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "llamadeploy", "worker",
        env={
            "PATH": os.environ["PATH"], "LLAMADEPLOY_READY_FD": str(announced),
            "LLAMADEPLOY_HEALTH_PORT": "0", **settings.to_environ(),
        },
        pass_fds=(announced,),
    )  # fmt: skip
    os.close(announced)
    try:
        line = json.loads(await asyncio.to_thread(os.read, ready, 4096))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{line['health_port']}") as http:
            await _check(http, plane, tmp_path / "gate", read)
    finally:
        os.close(ready)
        process.terminate()
        await process.wait()


async def _check(http: aiohttp.ClientSession, plane: Any, gate: Path, read: Any) -> None:
    async def scrape() -> Any:
        async with http.get("/metrics") as response:
            assert response.status == 200 and response.content_type == "text/plain"
            return read(await response.text())

    first = await scrape()
    assert first("worker_tasks_in_flight", deployment="measured", service="echo") == 0
    assert first("worker_slots") == 3
    for _ in range(4):
        await plane.result(await plane.create())
    await plane.result(await plane.create(error="no"))
    held = await plane.create(gate=str(gate))
    async with asyncio.timeout(20):
        while (await scrape())("worker_tasks_in_flight") != 1:
            await asyncio.sleep(0.01)
    gate.touch()
    await plane.result(held)
    async with asyncio.timeout(20):  # the result is there before the worker has let go of the task
        while (await scrape())("worker_tasks_in_flight") != 0:
            await asyncio.sleep(0.01)
    after = await scrape()
    assert after("worker_deliveries_total", outcome="succeeded") == 5
    assert after("worker_deliveries_total", outcome="failed") == 1
    assert after("store_operation_seconds_count", operation="start") == 6
    assert after("store_operation_seconds_count", operation="finish") == 6
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    for family in after.families:
        name = family.name.removeprefix("llamadeploy_")
        assert f"`{name}" in text or name.startswith("process_"), name
    planes = await plane.control_plane.metrics()
    assert "llamadeploy_worker_deliveries" not in {family.name for family in planes}
