"""Without ``exclusive_mode``: every consumer gets every message."""

from __future__ import annotations

from typing import Any

from llamadeploy.message_queues.base import DeliveryMode
from llamadeploy.messages import QueueMessage


def message(id_: str) -> QueueMessage:
    return QueueMessage(id_=id_, type="echo")


def ids(deliveries: list[Any]) -> list[str]:
    return [delivery.message.id_ for delivery in deliveries]


async def length(queue: Any, topic: str) -> int:
    return int(await queue._pipe("").ask("XLEN", f"llamadeploy:queue:{{{topic}}}:s"))


async def test_each_consumer_gets_each_message(
    redis_server: Any, unique: str, connect: Any, receive: Any, until: Any
) -> None:
    queue = connect(redis_server.uri, exclusive_mode=False)
    other = connect(redis_server.uri, exclusive_mode=False)
    assert queue.capabilities.delivery is DeliveryMode.BROADCAST
    async with (
        queue.consume(unique, group="g", prefetch=9) as one,
        other.consume(unique, group="g", prefetch=9) as two,
    ):
        for name in "abc":
            await queue.publish(unique, message(name))
        first, second = await receive(one, 3), await receive(two, 3)
        assert ids(first) == ids(second) == ["a", "b", "c"]
        assert (await queue.depth(unique), await queue.ready(unique)) == (3, 0)
        for delivery in first:
            await delivery.ack()
        assert await queue.depth(unique) == 3, "the second one still has all of them"
        await second[0].ack()
        await second[2].ack()

        async def has_trimmed() -> bool:
            return await length(queue, unique) == 2

        await until(has_trimmed)
        assert await queue.depth(unique) == 1, "what is pending is never trimmed"
        await second[1].nack()
        [again] = await receive(two, 1)
        assert again.message.id_ == "b"
        await again.ack()

        async def is_empty() -> bool:
            return await length(queue, unique) == 0

        await until(is_empty)


async def test_who_comes_later_gets_what_comes_later(
    redis_server: Any, unique: str, connect: Any, receive: Any
) -> None:
    queue = connect(redis_server.uri, exclusive_mode=False)
    async with queue.consume(unique, group="g", prefetch=9) as one:
        await queue.publish(unique, message("a"))
        async with queue.consume(unique, group="g", prefetch=9) as two:
            await queue.publish(unique, message("b"))
            assert ids(await receive(two, 1)) == ["b"]
        assert ids(await receive(one, 2)) == ["a", "b"]


async def test_what_nobody_heard_waits_for_the_first_consumer(
    redis_server: Any, unique: str, connect: Any, receive: Any
) -> None:
    queue = connect(redis_server.uri, exclusive_mode=False)
    await queue.publish(unique, message("a"))
    assert await queue.depth(unique) == 1
    async with queue.consume(unique, group="g", prefetch=9) as consumer:
        await receive(consumer, 1)
        await queue.publish(unique, message("b"))
        await receive(consumer, 1)
    async with queue.consume(unique, group="g", prefetch=9) as consumer:
        assert ids(await receive(consumer, 2)) == ["a", "b"], "handed back by the one that left"


async def test_an_inbox_belongs_to_one_consumer_all_the_same(
    redis_server: Any, unique: str, connect: Any, receive: Any
) -> None:
    queue = connect(redis_server.uri, exclusive_mode=False)
    async with queue.consume(unique, group="w", ephemeral=True) as consumer:
        await queue.publish(unique, message("a"))
        [delivery] = await receive(consumer, 1)
        await delivery.ack()
        assert await queue.depth(unique) == 0
    await queue.publish(unique, message("b"))
    assert await queue.depth(unique) == 0


async def test_a_dead_consumer_does_not_keep_messages_for_ever(
    redis_server: Any, unique: str, connect: Any, receive: Any, consumer_process: Any, until: Any
) -> None:
    queue = connect(redis_server.uri, exclusive_mode=False, silence=0.1)
    child = consumer_process(redis_server.uri, unique, 1, exclusive_mode=False)
    async with queue.consume(unique, group="g", prefetch=9) as consumer:

        async def both_listen() -> bool:
            groups = await queue._pipe("").ask("ZCARD", f"llamadeploy:queue:{{{unique}}}:groups")
            return bool(groups == 2)

        await until(both_listen, 20.0)
        await queue.publish(unique, message("first"))
        assert await child.line() == "first"
        [delivery] = await receive(consumer, 1)
        await delivery.ack()
        child.process.kill()
        await queue.publish(unique, message("second"))
        [delivery] = await receive(consumer, 1)
        await delivery.ack()
        assert await length(queue, unique) == 2

        async def is_empty() -> bool:
            return await length(queue, unique) == 0

        await until(is_empty)
