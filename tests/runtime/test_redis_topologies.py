"""Store and queue on a Cluster, and on a master that a Sentinel replaces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from llamadeploy.exceptions import QueueUnavailableError, StoreUnavailableError
from llamadeploy.message_queues.redis.queue import RedisMessageQueue
from llamadeploy.messages import QueueMessage
from llamadeploy.state_stores.records import Completion, NewTask, StartRequest
from llamadeploy.state_stores.redis.store import RedisStateStore
from llamadeploy.types import TaskState


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def open_both(
    stack: AsyncExitStack, uri: str, namespace: str
) -> tuple[RedisStateStore, RedisMessageQueue]:
    store = await RedisStateStore.open(uri, namespace, timeout=1.0)
    stack.push_async_callback(store.aclose)
    queue = RedisMessageQueue(url=uri, exclusive_mode=True, silence=1.0, timeout=1.0)
    stack.push_async_callback(queue.aclose)
    return store, queue


async def run_task(store: RedisStateStore, task_id: str) -> None:
    session_id = f"of {task_id}"
    await store.create_task(
        NewTask(
            task_id=task_id, session_id=session_id, service="echo", input="{}", new_session=True
        )
    )
    request = StartRequest(task_id=task_id, execution_id="x", worker_id="w", lease=60)
    with store.follow(task_id):
        run: Any = await store.start(request)
        await store.finish(Completion(key=run.key, state=TaskState.SUCCEEDED, result="done"))


async def send(queue: RedisMessageQueue, consumer: Any, topic: str, id_: str) -> None:
    """Publish until it was taken, which may be twice, and acknowledge until nothing is left."""
    await until_answered(lambda: queue.publish(topic, QueueMessage(id_=id_)))
    async with asyncio.timeout(20):
        while await until_answered(lambda: queue.depth(topic)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    delivery = await anext(aiter(consumer))
                    assert delivery.message.id_ == id_
                    await delivery.ack()


def number(server: Any, field: str) -> int:
    """A number of the server's replication."""
    return int(server.command("INFO", "replication").partition(f"{field}:")[2].split()[0])


async def until_answered(call: Callable[[], Awaitable[Any]], seconds: float = 30.0) -> Any:
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except (StoreUnavailableError, QueueUnavailableError):
                await asyncio.sleep(0.05)


async def test_deployments_and_topics_are_spread_over_a_cluster(
    redis_cluster: Any, stack: AsyncExitStack
) -> None:
    uri = ",".join(node.uri.removeprefix("redis://").removesuffix("/0") for node in redis_cluster)
    for each in range(8):
        store, queue = await open_both(stack, f"redis://{uri}?cluster=true", f"deployment {each}")
        await run_task(store, "t")
        assert (await store.counts())["succeeded"] == 1
        topic = f"topic {each}"
        async with queue.consume(topic, group="g") as consumer:
            await send(queue, consumer, topic, "a")
    sizes = [int(node.command("DBSIZE").strip(":\r\n")) for node in redis_cluster]
    assert min(sizes) > 0, "each node has its part"


async def test_a_master_that_died_is_replaced(watched_redis: Any, stack: AsyncExitStack) -> None:
    store, queue = await open_both(stack, watched_redis.uri, "ns")
    await run_task(store, "before")
    async with queue.consume("topic", group="g") as consumer:
        await send(queue, consumer, "topic", "before")
        replica = watched_redis.replica
        offset = number(watched_redis.master, "master_repl_offset")
        replica.wait_for(lambda: number(replica, "slave_repl_offset") >= offset)
        watched_redis.master.kill()
        record = await until_answered(lambda: store.get_task("before"))
        assert record.result == "done"
        await until_answered(lambda: run_task(store, "after"))
        await send(queue, consumer, "topic", "after")


async def test_the_documented_rights_are_enough(own_redis: Any, stack: AsyncExitStack) -> None:
    own_redis.command(
        "ACL", "SETUSER", "app", "on", ">s3cr3t", "~llamadeploy:*", "&llamadeploy:*", "-@all",
        *["+@read", "+@write", "+@stream", "+@pubsub", "+@scripting", "+@connection", "+time"],
    )  # fmt: skip
    uri = own_redis.uri.replace("://", "://app:s3cr3t@")
    store, queue = await open_both(stack, uri, "ns")
    await run_task(store, "t")
    async with queue.consume("topic", group="g", prefetch=2) as consumer:
        await send(queue, consumer, "topic", "a")
    broadcast = RedisMessageQueue(url=uri, silence=0.2)
    stack.push_async_callback(broadcast.aclose)
    async with broadcast.consume("topic", group="g", prefetch=2) as consumer:
        await send(broadcast, consumer, "topic", "b")
        await asyncio.sleep(0.2)  # a sign of life
    assert "NOPERM" not in (own_redis.folder / "redis.log").read_text()
    assert own_redis.command("ACL", "LOG") == "*0\r\n", "nothing was refused"
