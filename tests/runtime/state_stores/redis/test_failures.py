"""A server that dies, stops, is full, or lets nobody in; notifications that get lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llamadeploy.exceptions import ConfigurationError, StoreUnavailableError
from llamadeploy.state_stores.records import Completion, NewEvent, NewTask, StartRequest
from llamadeploy.types import TaskState


def task(task_id: str, **fields: Any) -> NewTask:
    fields = {"input": "{}", "new_session": True, **fields}
    return NewTask(task_id=task_id, session_id=f"of {task_id}", service="echo", **fields)


def request(task_id: str) -> StartRequest:
    return StartRequest(task_id=task_id, execution_id="x", worker_id="w", lease=60)


async def finish(store: Any, run: Any, result: str = "done") -> None:
    await store.finish(Completion(key=run.key, state=TaskState.SUCCEEDED, result=result))


async def until_answered(call: Any, seconds: float = 20.0) -> Any:
    """Ask until the server is there; whoever calls a store may repeat every call."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


async def test_a_killed_server_loses_nothing_that_was_answered(
    own_redis: Any, open_redis: Any
) -> None:
    store = await open_redis(own_redis.uri)
    accepted: list[str] = []

    async def create(first: int) -> None:
        number = first
        while True:
            try:
                created = await store.create_task(task(f"t{number}"))
            except StoreUnavailableError:
                return
            accepted.append(created.task_id)
            number += 10

    writers = [asyncio.create_task(create(number)) for number in range(10)]
    while len(accepted) < 300:
        await asyncio.sleep(0.01)
    own_redis.kill()
    await asyncio.gather(*writers)
    own_redis.start()
    counts = await until_answered(store.counts)
    assert counts["queued"] >= len(accepted)
    for task_id in accepted:
        assert (await store.get_task(task_id)).state == TaskState.QUEUED
        assert await store.get_session(f"of {task_id}") is not None


async def test_a_store_that_is_away_says_so_and_comes_back(own_redis: Any, open_redis: Any) -> None:
    store = await open_redis(own_redis.uri)
    await store.create_task(task("t"))
    own_redis.kill()
    with pytest.raises(StoreUnavailableError, match=r"state store: Redis at redis://127"):
        await store.ping()
    with pytest.raises(StoreUnavailableError):
        await open_redis(own_redis.uri)
    own_redis.start()
    assert (await until_answered(lambda: store.get_task("t"))).state == TaskState.QUEUED


async def test_a_stopped_server_is_away_and_goes_on(own_redis: Any, open_redis: Any) -> None:
    store = await open_redis(own_redis.uri)
    await store.create_task(task("t"))
    own_redis.freeze()
    with pytest.raises(StoreUnavailableError, match=r"no answer|does not answer"):
        await store.start(request("t"))
    own_redis.thaw()
    run = await until_answered(lambda: store.start(request("t")))
    assert run.attempt == 1, "asked twice and done once"
    await finish(store, run)


async def test_another_process_wakes_a_follower_and_tells_the_end(
    redis_server: Any, open_redis: Any
) -> None:
    here, there = await open_redis(redis_server.uri), await open_redis(redis_server.uri)
    with here.follow_all() as follower:
        await there.create_task(task("t"))
        assert await follower.changed(5)
    with here.follow("t") as follower:
        run = await there.start(request("t"))
        assert await follower.changed(5)
        await there.append_events(run.key, [NewEvent(0, "E", "{}")])
        assert await follower.changed(5)
        assert not await follower.changed(0)
        await finish(there, run)
        record = await follower.end(5)
        assert record == await here.get_task("t")
    await here.create_task(task("large"))
    run = await there.start(request("large"))
    with here.follow("large") as follower:
        await finish(there, run, "x" * 100_000)
        assert await follower.end(5) is None, "read it"


async def test_a_notification_that_was_missed_is_made_good(
    own_redis: Any, open_redis: Any, admin: Any
) -> None:
    here, there = await open_redis(own_redis.uri), await open_redis(own_redis.uri)
    await here.create_task(task("t"))
    with here.follow("t") as follower:
        await admin(own_redis.uri, "CONFIG", "SET", "maxclients", "10")
        # Nobody listens while the task ends.
        assert await admin(own_redis.uri, "CLIENT", "KILL", "TYPE", "pubsub") == 2
        await finish(there, await there.start(request("t")))
        assert await follower.changed(10)
    record = await here.get_task("t")
    assert record.state == TaskState.SUCCEEDED


async def test_a_listener_that_hears_nothing_notices(own_redis: Any, open_redis: Any) -> None:
    """The connection is open, and nobody is at its other end."""
    store = await open_redis(own_redis.uri, timeout=0.2)
    await store.create_task(task("t"))
    with store.follow("t") as follower:
        own_redis.freeze()
        waiting = asyncio.create_task(follower.changed(20))
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        await asyncio.sleep(0.5)  # two silences
        own_redis.thaw()
        assert await waiting


async def test_newer_keys_are_refused(
    redis_server: Any, open_redis: Any, admin: Any, unique: str
) -> None:
    await (await open_redis(redis_server.uri)).create_task(task("t"))
    await admin(redis_server.uri, "SET", f"llamadeploy:{{{unique}}}:schema", "99")
    with pytest.raises(ConfigurationError, match="schema version 99 is newer than 2"):
        await open_redis(redis_server.uri)


async def test_a_full_server_refuses_and_nothing_is_half_written(
    own_redis: Any, open_redis: Any, admin: Any
) -> None:
    store = await open_redis(own_redis.uri)
    await store.create_task(task("t"))
    run = await store.start(request("t"))
    await admin(own_redis.uri, "CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(StoreUnavailableError, match="maxmemory"):
        await store.create_task(task("u"))
    with pytest.raises(StoreUnavailableError, match="maxmemory"):
        await store.append_events(run.key, [NewEvent(0, "E", "{}")])
    assert (await store.read_log("t", 0, 9)).event_count == 0
    assert (await store.get_task("t")).state == TaskState.RUNNING
    assert await store.get_task("u") is None
    assert await store.get_session("of u") is None
    assert (await store.counts())["queued"] == 0
    await finish(store, run)  # what runs comes to its end
    await admin(own_redis.uri, "CONFIG", "SET", "maxmemory", "0")
    await store.create_task(task("u"))


async def test_a_wrong_login_is_a_setting_and_shows_no_password(
    own_redis: Any, open_redis: Any, admin: Any
) -> None:
    await admin(own_redis.uri, "ACL", "SETUSER", "app", "on", ">s3cr3t", "~*", "&*", "+@all")
    await admin(own_redis.uri, "CONFIG", "SET", "requirepass", "other")
    with pytest.raises(ConfigurationError) as raised:
        await open_redis(own_redis.uri.replace("://", "://app:hunter2@"))
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="Authentication required"):
        await open_redis(own_redis.uri)
    await (await open_redis(own_redis.uri.replace("://", "://app:s3cr3t@"))).create_task(task("t"))


async def test_large_texts_are_fine(redis_server: Any, open_redis: Any) -> None:
    store = await open_redis(redis_server.uri, timeout=20.0)
    large = "é" * 10_000_000
    created = await store.create_task(task("t", input=large))
    assert created.publish[0].input is None
    run = await store.start(request("t"))
    assert run.input == large
    await store.finish(
        Completion(key=run.key, state=TaskState.SUCCEEDED, result=large, context=large)
    )
    assert (await store.get_task("t")).result == large


async def test_everything_of_a_deployment_is_below_its_prefix(
    own_redis: Any, open_redis: Any, admin: Any, unique: str
) -> None:
    store = await open_redis(own_redis.uri)
    await store.create_task(task("t"))
    run = await store.start(request("t"))
    await store.append_events(run.key, [NewEvent(0, "E", "{}"), NewEvent(5, "E", "{}")])
    await store.append_inbound("t", "event")
    await store.add_dead_letter("why", "what")
    await finish(store, run)
    keys = await admin(own_redis.uri, "KEYS", "*")
    assert keys
    assert all(key.startswith(f"llamadeploy:{{{unique}}}:".encode()) for key in keys)


async def test_a_forgotten_task_leaves_nothing_but_its_tombstone(
    own_redis: Any, open_redis: Any, admin: Any, unique: str
) -> None:
    store = await open_redis(own_redis.uri)
    await store.ping()
    before = set(await admin(own_redis.uri, "KEYS", "*"))
    for number in range(20):
        name = f"t{number}"
        await store.create_task(task(name, parent="t0" if number else None, max_retries=0))
        run = await store.start(request(name))
        await store.append_events(run.key, [NewEvent(0, "E", "{}"), NewEvent(5, "E", "{}")])
        await store.append_inbound(name, "event")
        await finish(store, run)
    assert await store.expire(9e9) == 20
    left = {key.decode().rpartition(":")[2] for key in await admin(own_redis.uri, "KEYS", "*")}
    left -= {key.decode().rpartition(":")[2] for key in before}
    assert left == {"tombstones", "numbers", "counts"}


async def test_a_server_without_functions_takes_scripts(
    tmp_path: Any, redis_server: Any, open_redis: Any, unique: str
) -> None:
    """As Redis 6 has none."""
    old = type(redis_server)(redis_server.folder / unique, "--rename-command", "FCALL", "")
    old.folder.mkdir()
    old.start()
    try:
        store = await open_redis(old.uri)
        await store.create_task(task("t"))
        await finish(store, await store.start(request("t")))
        assert (await store.get_task("t")).state == TaskState.SUCCEEDED
        await store.aclose()
    finally:
        old.stop()


async def test_a_server_that_forgot_the_functions_is_told_them_again(
    own_redis: Any, open_redis: Any, admin: Any
) -> None:
    store = await open_redis(own_redis.uri, timeout=10)
    await admin(own_redis.uri, "FUNCTION", "FLUSH")
    await asyncio.gather(*(store.create_task(task(f"t{n}")) for n in range(20)))
    assert (await store.counts())["queued"] == 20
