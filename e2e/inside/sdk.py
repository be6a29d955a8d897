"""Runs in a pod beside a Deployment: a task, a stream and a human in the loop by the SDK.

    python sdk.py URL DEPLOYMENT

Prints one line of JSON: what each of them gave.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from workflows.events import HumanResponseEvent

from llamadeploy import Client, TaskDefinition


async def stream(deployment: Any) -> dict[str, Any]:
    definition = TaskDefinition(service_id="counter", input='{"to": 3, "pause": 0.05}')
    task = await deployment.tasks.create(definition)
    counts = [event.data["count"] async for event in task.events(typed=True)
              if event.type.endswith("ProgressEvent")]  # fmt: skip
    return {"counts": counts, "result": (await task.result(60)).result}


async def human(deployment: Any) -> dict[str, Any]:
    definition = TaskDefinition(service_id="trip_planner", input='{"days": 4}')
    task = await deployment.tasks.create(definition)
    asked = ""
    async for event in task.events():
        if "prefix" in event.get("_data", {}):
            asked = event["_data"]["prefix"]
            await task.send_event(HumanResponseEvent(response="Lisbon"), "trip_planner")
    return {"asked": asked, "result": (await task.result(60)).result}


async def core(client: Client) -> str:
    session = await client.core.sessions.create()
    return await session.run("echo_workflow", message="by the core SDK")


async def main() -> None:
    url, name = sys.argv[1:]
    client = Client(api_server_url=url, control_plane_url=url, timeout=60)
    deployment = await client.apiserver.deployments.get(name)
    run = await deployment.tasks.run(TaskDefinition(input='{"message": "by the SDK"}'))
    found = {"run": run, "stream": await stream(deployment), "human": await human(deployment),
             "core": await core(client)}  # fmt: skip
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
