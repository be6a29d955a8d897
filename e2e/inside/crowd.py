"""Runs in a pod beside a Deployment: tasks created at once, each of which has to end as expected.

    python crowd.py URL DEPLOYMENT SERVICE COUNT:PAUSE [COUNT:PAUSE ...]

``200:0.3`` are 200 tasks that take 0.3 s each. Prints a line ``{"created": n}`` once all are
created, and at the end one with ``created``, ``right`` (how many gave their result), ``wrong``
(task -> what it gave), ``lost`` (without a result) and ``attempts`` (number of attempts -> tasks).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from llamadeploy import Client, TaskDefinition
from llamadeploy.client.errors import ServerError

CREATE_SECONDS = 120.0
RESULT_SECONDS = 280.0
BREAKS = (httpx.HTTPError, OSError)


async def until(what: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """The first answer, over broken connections and servers that say "not now"."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = await what()
        except BREAKS:
            await asyncio.sleep(0.2)
        except ServerError as error:
            if error.status_code not in (429, 502, 503, 504):
                raise
            await asyncio.sleep(0.2)
        else:
            if found is not None:
                return found
    return None


async def one(tasks: Any, service: str, pause: float, gate: asyncio.Semaphore) -> Any:
    """Create a task; gives it and what it has to give."""
    number = uuid.uuid4().hex[:12]
    given = json.dumps({"n": number, "pause": pause})
    definition = TaskDefinition(task_id=str(uuid.uuid4()), service_id=service, input=given)
    async with gate:
        made = await until(lambda: tasks.create(definition, idempotency_key=number), CREATE_SECONDS)
    return made, number


async def main() -> None:
    url, name, service, *groups = sys.argv[1:]
    client = Client(api_server_url=url, control_plane_url=url, timeout=40)
    tasks = (await client.apiserver.deployments.get(name)).tasks
    gate = asyncio.Semaphore(16)
    pauses = [float(p) for g in groups for count, p in [g.split(":")] for _ in range(int(count))]
    made = await asyncio.gather(*(one(tasks, service, pause, gate) for pause in pauses))
    print(json.dumps({"created": len(made)}), flush=True)
    wrong: dict[str, str] = {}
    lost: list[str] = []
    attempts: Counter[int] = Counter()

    async def follow(task: Any, number: str) -> None:
        result = await until(lambda: task.results(wait=20), RESULT_SECONDS)
        status = await until(task.status, 30)
        if result is None:
            lost.append(f"{task.id}: {status}")
            return
        attempts[status.attempts] += 1
        if number not in result.result or result.data.get("state"):
            wrong[task.id] = result.result

    await asyncio.gather(*(follow(*each) for each in made))
    right = len(made) - len(wrong) - len(lost)
    report = {"created": len(made), "right": right, "wrong": wrong, "lost": lost,
              "attempts": attempts}  # fmt: skip
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
