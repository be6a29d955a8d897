"""Keys that an older release wrote.

``layout_1.json`` has all keys of a store that release wrote at the time 1000.25: a task in each
state, one behind another in a session, a dead letter, a tombstone, and the rows of the outbox, of
which that of task ``row`` is done.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.exceptions import NotFoundError
from llamadeploy.state_stores.records import Completion, RepairPolicy, StartRequest
from llamadeploy.types import TaskState

OLD = Path(__file__).with_name("layout_1.json")
NOW = 1000.25


async def restore(admin: Any, uri: str, namespace: str) -> None:
    raw = base64.b64decode
    for key, (kind, content) in json.loads(OLD.read_text()).items():
        name = key.replace("{old}", f"{{{namespace}}}")
        if kind == "string":
            await admin(uri, "SET", name, raw(content))
        elif kind == "hash":
            pairs = [raw(text) for pair in content.items() for text in pair]
            await admin(uri, "HSET", name, *pairs)
        elif kind == "zset":
            pairs = [part for member, at in content.items() for part in (repr(at), raw(member))]
            await admin(uri, "ZADD", name, *pairs)
        else:
            command = {"list": "RPUSH", "set": "SADD"}[kind]
            await admin(uri, command, name, *map(raw, content))


async def test_what_an_older_release_wrote_goes_on(
    redis_server: Any, open_redis: Any, admin: Any, unique: str
) -> None:
    await restore(admin, redis_server.uri, unique)
    clock = [NOW]
    store = await open_redis(redis_server.uri, clock=lambda: clock[0])
    assert await admin(redis_server.uri, "GET", f"llamadeploy:{{{unique}}}:schema") == b"2"
    assert await store.counts() == {
        "queued": 6, "running": 1, "waiting": 1, "succeeded": 1, "failed": 0, "cancelled": 0,
        "outbox": 4,
    }  # fmt: skip
    load = await store.service_load("echo")
    assert (load.queued, load.blocked, load.waiting) == (4, 1, 1)
    assert (load.running, load.oldest_queued_at) == ({"w1": 1}, NOW)
    assert (await store.get_task("ended")).result == "done"
    assert await store.next_due() == NOW + 5, "the rows' lease"

    clock[0] = NOW + 5
    policy = RepairPolicy(resend_unstarted_after=None)
    due = await store.repair(policy)
    assert {row.task_id for row in due.publish} == {"head", "published", "other", "done-row"}
    await store.outbox_done([row.row_id for row in due.publish])
    assert (await store.counts())["outbox"] == 0

    clock[0] = NOW + 6
    lost = await store.repair(policy)
    assert [row.task_id for row in lost.publish] == ["running"]
    run = await store.start(StartRequest(task_id="head", execution_id="x", worker_id="w2", lease=6))
    ended = await store.finish(Completion(key=run.key, state=TaskState.SUCCEEDED, result="done"))
    assert [row.task_id for row in ended.publish] == ["blocked"]

    clock[0] = NOW + 60
    assert set((await store.repair(policy)).timed_out) == {"waiting", "published"}
    clock[0] = NOW + 100
    assert await store.expire(clock[0]) == 4
    with pytest.raises(NotFoundError):
        await store.read_log("ended", 0, 1)


async def test_keys_are_rewritten_once(
    redis_server: Any, open_redis: Any, admin: Any, unique: str
) -> None:
    await restore(admin, redis_server.uri, unique)
    first = await open_redis(redis_server.uri, clock=lambda: NOW)
    counts = await first.counts()
    second = await open_redis(redis_server.uri, clock=lambda: NOW)
    assert await second.counts() == counts
    assert (await second.repair(RepairPolicy(resend_unstarted_after=None))).publish == ()
