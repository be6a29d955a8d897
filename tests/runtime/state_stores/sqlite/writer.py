"""Writes tasks into the store at ``argv[1]`` until it is killed; prints what was accepted."""

from __future__ import annotations

import asyncio
import os
import sys

from llamadeploy.state_stores.records import Completion, Execution, NewEvent, NewTask, StartRequest
from llamadeploy.state_stores.sqlite.store import SQLiteStateStore
from llamadeploy.types import TaskState


def tell(text: str) -> None:
    """One write per line: a killed process tears none."""
    os.write(1, f"{text}\n".encode())


async def work(store: SQLiteStateStore, name: str) -> None:
    number = 0
    while True:
        number += 1
        task_id = f"{name}-{number}"
        created = await store.create_task(
            NewTask(task_id=task_id, session_id=task_id, service="e", input="{}", new_session=True)
        )
        tell(f"created {task_id}")
        await store.outbox_done([row.row_id for row in created.publish])
        run = await store.start(
            StartRequest(task_id=task_id, execution_id=task_id, worker_id="w", lease=60)
        )
        assert isinstance(run, Execution)
        await store.append_events(run.key, [NewEvent(n, "E", "{}") for n in range(5)])
        tell(f"events {task_id}")
        await store.finish(
            Completion(
                key=run.key,
                state=TaskState.SUCCEEDED,
                result=task_id,
                events=(NewEvent(5, "Stop", "{}"),),
            )
        )
        tell(f"finished {task_id}")


async def main() -> None:
    store = await SQLiteStateStore.open(f"sqlite:///{sys.argv[1]}", "ns")
    await asyncio.gather(*(work(store, f"{sys.argv[2]}-{n}") for n in range(8)))


asyncio.run(main())
