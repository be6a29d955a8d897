"""Plans are kept, so what was planned over empty tables must do over large ones."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from llamadeploy.state_stores.records import Completion, NewTask, StartRequest
from llamadeploy.types import TaskState

OTHERS = 4000
OURS = 20

FILL = """
INSERT INTO {0}.tasks (namespace, task_id, session_id, service, state, timer, place, body_hash,
  max_retries, retry_on_error, orchestrated, detached, ancestors, created_at)
SELECT '{0}', 'other' || n, 'other' || n, 'echo', 'succeeded', 1, NULL, '', 3, false, false, false,
  '[]', 1 FROM generate_series(1, {1}) n;
INSERT INTO {0}.sessions SELECT '{0}', 'other' || n, '{{}}', 0, 1, 1 FROM generate_series(1, {1}) n;
"""

READ = """
SELECT sum(idx_scan), sum(idx_tup_read) FROM pg_stat_user_indexes
  WHERE schemaname = $1 AND relname IN ('tasks', 'sessions')
"""


async def test_lookups_read_no_more_in_a_large_table(
    postgresql_server: Any, unique: str, open_store: Any
) -> None:
    store = await open_store(f"{postgresql_server.uri}?schema={unique}&pool_size=1")

    async def work(name: str) -> None:
        await store.create_task(
            NewTask(task_id=name, session_id=name, service="echo", input="{}", new_session=True)
        )
        run = await store.start(
            StartRequest(task_id=name, execution_id="x", worker_id="w", lease=60)
        )
        await store.renew("w", [run.key], 60)
        await store.append_events(run.key, [])
        await store.finish(Completion(key=run.key, state=TaskState.SUCCEEDED, result="r"))
        await store.get_task(name)
        await store.get_session(name)
        await store.forget_sessions([name])

    for n in range(3):
        await work(f"first{n}")  # makes the plans
    other = await asyncpg.connect(postgresql_server.uri)
    try:
        await other.execute(FILL.format(unique, OTHERS))
        scans, read = await other.fetchrow(READ, unique)
        for n in range(OURS):
            await work(f"t{n}")
        async with asyncio.timeout(20):
            while True:  # the server tells what was read about a second later
                await store.ping()
                now_scans, now_read = await other.fetchrow(READ, unique)
                if now_scans - scans >= 5 * OURS:
                    break
                await asyncio.sleep(0.2)
        assert now_read - read < OTHERS
    finally:
        await other.close()
