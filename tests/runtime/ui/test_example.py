"""The example in ``examples/ui`` does what its README says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLE = Path(__file__).parents[3] / "examples" / "ui"


async def test_the_page_and_the_calls_it_makes(server: Any) -> None:
    server.project = EXAMPLE
    status, body = await server.deploy((EXAMPLE / "deployment.yaml").read_text())
    assert (status, body) == (200, {"name": "countdown"})
    async with server.http.get("/ui/countdown") as reply:
        assert reply.url.path == "/ui/countdown/"
        assert reply.content_type == "text/html"
        assert "<title>Countdown</title>" in await reply.text()

    task = {"input": json.dumps({"seconds": 2, "pause": 0})}
    async with server.http.post("/deployments/countdown/tasks/create", json=task) as reply:
        created = await reply.json()
    at = f"/deployments/countdown/tasks/{created['task_id']}"
    session = f"session_id={created['session_id']}"
    async with server.http.get(f"{at}/events?{session}") as reply:
        lines = [json.loads(line) async for line in reply.content if line.strip()]
    assert [each["left"] for each in lines if "left" in each] == [2, 1]
    _, result = await server.get(f"{at}/results?{session}&wait=10")
    assert result["result"] == "Lift-off!"
