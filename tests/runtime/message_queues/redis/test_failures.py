"""Consumers and servers that die, stop and come back: nothing is lost, nothing is taken twice."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Any

import pytest

from llamadeploy.exceptions import QueueError, QueueUnavailableError
from llamadeploy.messages import QueueMessage


def message(id_: str) -> QueueMessage:
    return QueueMessage(id_=id_, type="echo", data={"n": id_})


def ids(deliveries: list[Any]) -> list[str]:
    return [delivery.message.id_ for delivery in deliveries]


@pytest.mark.rule(9)
@pytest.mark.defect(8)
async def test_what_a_killed_process_held_is_delivered_again_in_order(
    redis_server: Any, unique: str, connect: Any, receive: Any, consumer_process: Any
) -> None:
    queue = connect(redis_server.uri)
    for name in "abcd":
        await queue.publish(unique, message(name))
    child = consumer_process(redis_server.uri, unique, 3)
    assert [await child.line() for _ in range(3)] == ["a", "b", "c"]
    async with queue.consume(unique, group="g", prefetch=10) as consumer:
        [rest] = await receive(consumer, 1)
        child.process.kill()
        again = await receive(consumer, 3)
        assert ids([rest, *again]) == ["d", "a", "b", "c"]
        for delivery in [rest, *again]:
            await delivery.ack()
    assert await queue.depth(unique) == 0


@pytest.mark.rule(9)
async def test_a_consumer_that_was_stopped_and_wakes_up_changes_nothing(
    redis_server: Any, unique: str, connect: Any, receive: Any, consumer_process: Any
) -> None:
    """Its acknowledgement must not remove what is somebody else's by now, nor its next sign of
    life take it back."""
    queue = connect(redis_server.uri)
    child = consumer_process(redis_server.uri, unique, 1)
    await queue.publish(unique, message("a"))
    assert await child.line() == "a"
    child.process.send_signal(signal.SIGSTOP)
    async with queue.consume(unique, group="g") as consumer:
        [delivery] = await receive(consumer, 1)
        child.process.send_signal(signal.SIGCONT)
        child.say("acknowledge")
        assert await child.line() == "acknowledged"
        assert (await queue.depth(unique), await queue.ready(unique)) == (1, 0)
        await delivery.ack()
        assert await queue.depth(unique) == 0


@pytest.mark.defect(9)
async def test_a_restarted_server_has_everything_and_consumers_go_on(
    own_redis: Any, unique: str, connect: Any, receive: Any
) -> None:
    queue, other = connect(own_redis.uri), connect(own_redis.uri)
    for name in "abcd":
        await queue.publish(unique, message(name))
    async with queue.consume(unique, group="g", prefetch=2) as consumer:
        one, two = await receive(consumer, 2)
        own_redis.kill()
        with pytest.raises(QueueUnavailableError, match="Redis at redis://127"):
            await other.publish(unique, message("refused"))
        with pytest.raises(QueueUnavailableError):
            await other.ping()
        await one.ack()  # made good for when the server is back
        own_redis.start()
        found = await receive(consumer, 1)
        assert ids(found) == ["c"]
        await two.ack()
        found += await receive(consumer, 1)
        assert ids(found) == ["c", "d"]
        await asyncio.gather(*(delivery.ack() for delivery in found))
        await other.publish(unique, message("e"))
        [last] = await receive(consumer, 1)
        await last.ack()
    assert await other.depth(unique) == 0


async def test_a_server_that_stops_in_its_tracks_loses_nothing(
    own_redis: Any, unique: str, connect: Any, receive: Any, until: Any
) -> None:
    queue, other = connect(own_redis.uri), connect(own_redis.uri)
    await queue.publish(unique, message("a"))
    async with queue.consume(unique, group="g", prefetch=5) as consumer:
        [first] = await receive(consumer, 1)
        own_redis.freeze()
        with pytest.raises(QueueUnavailableError, match=r"no answer|does not answer"):
            await other.publish(unique, message("b"))
        await first.ack()
        own_redis.thaw()
        await other.publish(unique, message("c"))
        # The server may have taken "b" when it went on; whoever asked was told to ask again.
        found = await receive(consumer, 1)
        while ids(found)[-1] != "c":
            await found[-1].ack()
            found = await receive(consumer, 1)
        await found[-1].ack()

        async def is_empty() -> bool:
            return bool(await other.depth(unique) == 0)

        await until(is_empty, 10.0)


async def test_what_was_given_to_a_connection_that_had_broken_comes_back(
    redis_server: Any, unique: str, connect: Any, receive: Any
) -> None:
    """The server hands a message to a waiting consumer whose machine is not there any more."""
    queue, admin = connect(redis_server.uri), connect(redis_server.uri)
    async with queue.consume(unique, group="g", prefetch=2) as consumer:
        waiting = asyncio.create_task(receive(consumer, 1))
        for name in "abcdefgh":
            await admin._pipe("").ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await admin.publish(unique, message(name))
            [delivery] = await waiting
            assert delivery.message.id_ == name
            await delivery.ack()
            waiting = asyncio.create_task(receive(consumer, 1))
        waiting.cancel()


@pytest.mark.defect(10)
@pytest.mark.parametrize("exclusive_mode", [True, False])
async def test_what_cannot_be_read_becomes_a_dead_letter_and_consumers_live(
    redis_server: Any, unique: str, connect: Any, receive: Any, exclusive_mode: bool
) -> None:
    """Once, also where each of two consumers finds it unreadable."""
    queue = connect(redis_server.uri, exclusive_mode=exclusive_mode)
    ask = queue._pipe("").ask
    stream = f"llamadeploy:queue:{{{unique}}}:s"
    async with AsyncExitStack() as stack:
        consumers = [
            await stack.enter_async_context(queue.consume(unique, group="g", prefetch=2))
            for _ in range(1 if exclusive_mode else 2)
        ]
        bodies = [b"{not json", b'{"data": 5}', b"\xff\xfe"]
        for body in bodies:
            await ask("XADD", stream, "*", "m", body)
        await ask("XADD", stream, "*", "foreign", "x", "fields", "y")
        await queue.publish(unique, message("good"))
        for consumer in consumers:
            [delivery] = await receive(consumer, 1)
            assert delivery.message.id_ == "good"
            await delivery.ack()
        async with queue.dead_letters(unique, prefetch=9) as letters:
            found = await receive(letters, 4)
            # Those of two consumers are not in one order.
            assert sorted(letter.body for letter in found) == sorted([*bodies, b"x"])
            assert {letter.topic for letter in found} == {unique}
            assert all("not a queue message" in letter.reason for letter in found)
            await asyncio.gather(*(letter.ack() for letter in found[:3]))
            await found[3].nack()
        async with queue.dead_letters(unique, prefetch=9) as letters:
            [left] = await receive(letters, 1)
            assert left.body == found[3].body
    assert await queue.depth(unique) == 0
    await queue.delete_topic(unique)
    assert await ask("KEYS", f"llamadeploy:queue:{{{unique}}}:*") == []


async def test_unread_nudges_are_dropped(
    redis_server: Any, unique: str, connect: Any, receive: Any
) -> None:
    queue = connect(redis_server.uri)
    async with queue.consume(unique, group="g", ephemeral=True) as inbox:
        await queue._pipe("").ask("XADD", f"llamadeploy:queue:{{{unique}}}:s", "*", "m", b"{")
        await queue.publish(unique, message("good"))
        [delivery] = await receive(inbox, 1)
        assert delivery.message.id_ == "good"
    assert await queue._pipe("").ask("EXISTS", f"llamadeploy:queue:{{{unique}}}:dead:s") == 0


async def test_a_full_server_refuses_and_recovers(
    own_redis: Any, unique: str, connect: Any
) -> None:
    queue = connect(own_redis.uri)
    await queue.publish(unique, message("fits"))
    await queue._pipe("").ask("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(QueueUnavailableError, match="maxmemory"):
        await queue.publish(unique, message("too much"))
    await queue._pipe("").ask("CONFIG", "SET", "maxmemory", "0")
    await queue.publish(unique, message("fits again"))
    assert await queue.depth(unique) == 2


async def test_a_wrong_login_is_no_outage_and_shows_no_password(
    own_redis: Any, unique: str, connect: Any
) -> None:
    await connect(own_redis.uri)._pipe("").ask("CONFIG", "SET", "requirepass", "s3cr3t")
    for login in ("", ":hunter2@", "nobody:hunter2@"):
        queue = connect(own_redis.uri.replace("://", f"://{login}"))
        with pytest.raises(QueueError) as raised:
            await queue.publish(unique, message("1"))
        assert not isinstance(raised.value, QueueUnavailableError)
        assert "hunter2" not in str(raised.value)
    await connect(own_redis.uri.replace("://", "://:s3cr3t@")).publish(unique, message("1"))
