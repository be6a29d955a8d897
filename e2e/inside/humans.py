"""Runs in a pod beside a Deployment: tasks that ask a person.

    python humans.py URL DEPLOYMENT SERVICE ask COUNT        waits until each has asked
    python humans.py URL DEPLOYMENT SERVICE answer TASK ...  and waits for their results

Prints one line of JSON: the tasks' ids, or id -> result.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from workflows.events import HumanResponseEvent

from llamadeploy import Client, TaskDefinition


async def ask(tasks: Any, service: str) -> str:
    task = await tasks.create(TaskDefinition(service_id=service, input="{}"))
    async for event in task.events():
        if "prefix" in event.get("_data", {}):
            break
    return str(task.id)


async def answer(tasks: Any, service: str, id: str) -> tuple[str, str]:
    task = await tasks.get(id)
    await task.send_event(HumanResponseEvent(response=f"answer to {id}"), service)
    while (result := await task.results(wait=30)) is None:
        pass
    return id, result.result


async def main() -> None:
    url, name, service, what, *words = sys.argv[1:]
    client = Client(api_server_url=url, control_plane_url=url, timeout=60)
    tasks = (await client.apiserver.deployments.get(name)).tasks
    found: Any
    if what == "ask":
        found = await asyncio.gather(*(ask(tasks, service) for _ in range(int(words[0]))))
    else:
        found = dict(await asyncio.gather(*(answer(tasks, service, id) for id in words)))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
