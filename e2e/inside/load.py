"""Runs in a pod beside a Deployment: a steady load of tasks, each of which has to end as expected.

    python load.py URL DEPLOYMENT SERVICE CONCURRENCY STOP_FILE

It goes on until the file is there, then waits for what it has begun, and prints one line of JSON:
``created``, ``succeeded``, ``failed`` (task -> what was wrong), ``lost`` (tasks without a result),
``refused`` (requests answered with an error other than "not now"), ``broken`` (connections that
broke, each with what it was), ``results`` (result -> how often). A line ``{"done": n}`` comes every
half second meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from llamadeploy import Client, TaskDefinition
from llamadeploy.client.errors import ServerError

RESULT_SECONDS = 180.0
"""From a task's creation to its result, whatever is killed meanwhile."""


class Load:
    def __init__(self, url: str, deployment: str, service: str) -> None:
        self.client = Client(api_server_url=url, control_plane_url=url, timeout=20)
        self.deployment = deployment
        self.service = service
        self.created = 0
        self.failed: dict[str, str] = {}
        self.lost: list[str] = []
        self.refused: list[str] = []
        self.broken: Counter[str] = Counter()
        self.results: Counter[str] = Counter()

    async def until(self, what: Any, seconds: float) -> Any:
        """The answer of a call, made again while the connection breaks or the server says 503."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                found = await what()
                if found is not None:
                    return found
                continue  # a long poll that ended without a result
            except ServerError as error:
                if error.status_code != 503:
                    raise
                self.broken["503"] += 1
            except httpx.TransportError as error:
                self.broken[type(error).__name__] += 1
            await asyncio.sleep(0.2)
        return None

    async def one(self) -> None:
        number = uuid.uuid4().hex[:12]
        definition = TaskDefinition(
            task_id=str(uuid.uuid4()), service_id=self.service, input=json.dumps({"n": number})
        )
        try:
            found = self.client.apiserver.deployments
            deployment = await self.until(lambda: found.get(self.deployment), 60)
            if deployment is None:
                self.refused.append(f"{number}: no answer within 60 s")
                return
            task = await self.until(
                lambda: deployment.tasks.create(definition, idempotency_key=number), 60
            )
            if task is None:
                self.refused.append(f"{number}: not created within 60 s")
                return
            self.created += 1
            result = await self.until(lambda: task.results(wait=5), RESULT_SECONDS)
        except ServerError as error:
            self.refused.append(f"{number}: {error.status_code} {error}")
            return
        if result is None:
            self.lost.append(f"{task.id}: {await task.status()}")
        elif number not in result.result or result.data.get("state"):
            self.failed[task.id] = result.result
        else:
            self.results[result.result.replace(number, "").strip()] += 1

    async def client_loop(self, stop: Path) -> None:
        while not stop.exists():
            await self.one()

    async def tell(self) -> None:
        while True:
            print(json.dumps({"done": self.results.total()}), flush=True)
            await asyncio.sleep(0.5)

    def report(self) -> dict[str, Any]:
        return {
            "created": self.created, "succeeded": self.results.total(), "failed": self.failed,
            "lost": self.lost, "refused": self.refused, "broken": self.broken,
            "results": self.results,
        }  # fmt: skip


async def main() -> None:
    url, deployment, service, concurrency, stop = sys.argv[1:]
    load = Load(url, deployment, service)
    telling = asyncio.create_task(load.tell())
    await asyncio.gather(*(load.client_loop(Path(stop)) for _ in range(int(concurrency))))
    telling.cancel()
    print(json.dumps(load.report()), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
