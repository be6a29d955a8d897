"""The server is killed, restarted, stopped in its tracks; it takes a consumer for dead."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiormq
import pytest

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.message_queues.rabbitmq import link, topics
from llamadeploy.message_queues.rabbitmq.topology import Topology


async def publish_once_back(queue: Any, topic: str, message: Any, *, seconds: float = 20) -> None:
    """Publish as soon as the server takes it."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await queue.publish(topic, message)
            except QueueUnavailableError:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.mark.defect(9)
async def test_a_killed_server_loses_nothing_it_confirmed(
    own_rabbitmq: Any, open_queue: Any, message: Any, unique: str
) -> None:
    sender, receiver = open_queue(own_rabbitmq.url()), open_queue(own_rabbitmq.url())
    confirmed: set[str] = set()
    received: set[str] = set()
    stop = asyncio.Event()

    async def send(worker: int) -> None:
        number = 0
        while not stop.is_set():
            name = f"{worker}/{number}"
            try:
                await sender.publish(unique, message(name))
            except QueueUnavailableError:
                await asyncio.sleep(0.05)
                continue
            confirmed.add(name)
            number += 1

    async def take() -> None:
        async with receiver.consume(unique, group="g", prefetch=8) as consumer:
            async for delivery in consumer:
                received.add(delivery.message.id_)
                try:
                    await delivery.ack()
                except QueueUnavailableError:
                    pass  # it comes again

    async def reach(count: int) -> None:
        async with asyncio.timeout(60):
            while len(confirmed) < count:
                await asyncio.sleep(0.01)

    senders = [asyncio.create_task(send(n)) for n in range(3)]
    taking = asyncio.create_task(take())
    await reach(100)
    own_rabbitmq.kill()
    with pytest.raises(QueueUnavailableError, match=r"127\.0\.0\.1:\d+"):
        await sender.ping()
    own_rabbitmq.start()
    await reach(len(confirmed) + 100)
    stop.set()
    await asyncio.gather(*senders)
    async with asyncio.timeout(30):
        while not confirmed <= received:
            await asyncio.sleep(0.02)
    taking.cancel()
    await asyncio.wait({taking})


@pytest.mark.defect(9)
async def test_a_topic_made_just_before_the_kill_keeps_its_messages(
    own_rabbitmq: Any, open_queue: Any, message: Any, receive: Any, unique: str
) -> None:
    queue = open_queue(own_rabbitmq.url())
    await queue.publish(unique, message("1"))
    own_rabbitmq.kill()
    own_rabbitmq.start()
    async with queue.consume(unique, group="g") as consumer:
        [delivery] = await receive(consumer, seconds=30)
        assert delivery.message.id_ == "1"
        await delivery.ack()


async def test_a_queue_that_lost_its_leader_is_made_anew(
    own_rabbitmq: Any, open_queue: Any, message: Any, receive: Any, unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its messages are lost with it; nobody waits for them for ever."""
    monkeypatch.setattr(link, "ANSWER_SECONDS", 6.0)  # a delete of such a queue takes five
    monkeypatch.setattr(topics, "DEAD_SECONDS", 1.0)
    connection = await aiormq.connect(own_rabbitmq.url())
    channel = await connection.channel()
    await Topology("llama-deploy").declare_topic(channel, unique)  # and does not seal it
    own_rabbitmq.kill()
    own_rabbitmq.start()
    queue = open_queue(own_rabbitmq.url())
    async with queue.consume(unique, group="g") as consumer:
        await publish_once_back(queue, unique, message("1"), seconds=60)
        assert (await receive(consumer, seconds=30))[0].message.id_ == "1"


async def test_a_server_that_stops_answering_is_away_and_comes_back(
    own_rabbitmq: Any, open_queue: Any, message: Any, receive: Any, unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(link, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(link, "CONNECT_SECONDS", 0.5)
    queue = open_queue(own_rabbitmq.url())
    async with queue.consume(unique, group="g") as consumer:
        await queue.publish(unique, message("before"))
        await (await receive(consumer))[0].ack()
        own_rabbitmq.freeze()
        try:
            started = time.monotonic()
            outcomes = await asyncio.gather(
                *(queue.publish(unique, message(f"lost{n}")) for n in range(20)),
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in outcomes} == {QueueUnavailableError}
            assert time.monotonic() - started < 5
            with pytest.raises(QueueUnavailableError):
                await queue.ping()
        finally:
            own_rabbitmq.thaw()
        await publish_once_back(queue, unique, message("after"))
        # Those that were not confirmed may have arrived all the same.
        while (delivery := (await receive(consumer))[0]).message.id_ != "after":
            await delivery.ack()


async def test_a_consumer_waits_for_a_server_that_starts_later(
    own_rabbitmq: Any, open_queue: Any, message: Any, receive: Any, unique: str
) -> None:
    own_rabbitmq.kill()
    queue = open_queue(own_rabbitmq.url())
    async with queue.consume(unique, group="g") as consumer:
        with pytest.raises(QueueUnavailableError):
            await queue.publish(unique, message("early"))
        own_rabbitmq.start()
        await publish_once_back(queue, unique, message("1"))
        assert (await receive(consumer, seconds=20))[0].message.id_ == "1"


async def test_an_acknowledgement_that_takes_too_long_does_not_end_the_consumer(
    own_rabbitmq: Any, open_queue: Any, message: Any, receive: Any, unique: str
) -> None:
    """The server closes the channel after its ``consumer_timeout``."""
    queue = open_queue(own_rabbitmq.url())
    async with queue.consume(unique, group="g") as consumer:
        await queue.publish(unique, message("1"))
        [late] = await receive(consumer)
        [again] = await receive(consumer, seconds=20)
        assert again.message.id_ == "1"
        await late.ack()  # its claim is gone
        await again.ack()
        assert await queue.depth(unique) == 0
