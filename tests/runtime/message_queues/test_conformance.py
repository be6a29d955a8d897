"""What every message queue adapter must do: one suite, and below it a class per adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest

from llamadeploy.exceptions import ConfigurationError, QueueUnavailableError
from llamadeploy.message_queues.base import Consumer, Delivery, DeliveryMode, MessageQueue
from llamadeploy.message_queues.rabbitmq.queue import RabbitMQMessageQueue
from llamadeploy.message_queues.redis import topic as redis_topic
from llamadeploy.message_queues.registry import QUEUE_TYPES, open_queue
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.messages import ActionTypes, QueueMessage, QueueMessageStats

TOPIC = "ns.echo"
SUITES: dict[str, list[type]] = {}
"""Registered type -> its conformance classes."""
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def message(id_: str, **data: object) -> QueueMessage:
    return QueueMessage(id_=id_, type="echo", action=ActionTypes.NEW_TASK, data=data)


async def receive(consumer: Consumer, count: int, seconds: float = 5.0) -> list[Delivery]:
    """The next ``count`` deliveries; a time-out is the test's failure."""
    found: list[Delivery] = []
    iterator = aiter(consumer)
    async with asyncio.timeout(seconds):
        while len(found) < count:
            found.append(await anext(iterator))
    return found


async def nothing_more(consumer: Consumer, seconds: float = 0.1) -> bool:
    """Whether nothing is delivered for a while."""
    try:
        await receive(consumer, 1, seconds)
    except TimeoutError:
        return True
    return False


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.message.id_ for delivery in deliveries]


class QueueConformance:
    """The suite. ``open`` gives a new client of the same queue at each call."""

    queue_type: ClassVar[str]
    server: SimpleMessageQueueServer

    def __init_subclass__(cls) -> None:
        SUITES.setdefault(cls.queue_type, []).append(cls)

    async def open(self, stack: AsyncExitStack) -> MessageQueue:
        raise NotImplementedError

    @pytest.fixture
    async def stack(self, server: SimpleMessageQueueServer) -> AsyncIterator[AsyncExitStack]:
        self.server = server
        async with AsyncExitStack() as stack:
            yield stack

    @pytest.fixture
    async def queue(self, stack: AsyncExitStack) -> MessageQueue:
        return await self.open(stack)

    @pytest.fixture
    async def other(self, stack: AsyncExitStack) -> MessageQueue:
        return await self.open(stack)

    async def test_a_message_arrives_whole(self, queue: MessageQueue) -> None:
        sent = QueueMessage(
            id_="1/0",
            publisher_id="p",
            data={"ü": [1, 2.5, None, {"x": "\n\u2028"}], "big": "y" * 200_000},
            action=ActionTypes.SEND_EVENT,
            stats=QueueMessageStats(publish_time="now"),
            type="echo",
            added_by_a_later_release={"kept": True},
        )
        async with queue.consume(TOPIC, group="g") as consumer:
            await queue.publish(TOPIC, sent)
            [delivery] = await receive(consumer, 1)
            assert delivery.message == sent and delivery.topic == TOPIC
            await delivery.ack()

    async def test_what_was_published_before_there_was_a_consumer_arrives(
        self, queue: MessageQueue, other: MessageQueue
    ) -> None:
        for number in range(10):
            await queue.publish(TOPIC, message(f"{number}"))
        assert (await queue.depth(TOPIC), await queue.ready(TOPIC)) == (10, 10)
        async with other.consume(TOPIC, group="g", prefetch=10) as consumer:
            found = await receive(consumer, 10)
            assert sorted(ids(found)) == [f"{n}" for n in range(10)]
            assert await queue.depth(TOPIC) == 10, "delivered and not acknowledged counts"
            assert await queue.ready(TOPIC) == 0
            await asyncio.gather(*(delivery.ack() for delivery in found))
            assert await queue.depth(TOPIC) == 0

    async def test_depth_of_an_unknown_topic_is_0(self, queue: MessageQueue) -> None:
        assert await queue.depth("ns.nobody") == 0
        assert await queue.ready("ns.nobody") == 0

    async def test_an_acknowledged_message_never_comes_again(
        self, queue: MessageQueue, other: MessageQueue
    ) -> None:
        async with queue.consume(TOPIC, group="g") as consumer:
            await queue.publish(TOPIC, message("1"))
            [delivery] = await receive(consumer, 1)
            await delivery.ack()
            await delivery.ack()
            await delivery.nack()
        async with other.consume(TOPIC, group="g") as consumer:
            assert await nothing_more(consumer)
        assert await queue.depth(TOPIC) == 0

    async def test_nack_delivers_again_in_front_of_newer_messages(
        self, queue: MessageQueue
    ) -> None:
        for name in "abcde":
            await queue.publish(TOPIC, message(name))
        async with queue.consume(TOPIC, group="g", prefetch=3) as consumer:
            held = await receive(consumer, 3)
            assert ids(held) == ["a", "b", "c"]
            await held[1].ack()
            await held[2].nack()
            await held[0].nack()
            await held[0].nack()
        async with queue.consume(TOPIC, group="g", prefetch=4) as consumer:
            again = await receive(consumer, 4)
            assert ids(again) == ["a", "c", "d", "e"]
            assert await nothing_more(consumer)

    async def test_leaving_hands_back_at_once(
        self, queue: MessageQueue, other: MessageQueue
    ) -> None:
        for name in "abc":
            await queue.publish(TOPIC, message(name))
        async with queue.consume(TOPIC, group="g", prefetch=2) as first:
            held = await receive(first, 2)
            async with other.consume(TOPIC, group="g", prefetch=3) as second:
                [rest] = await receive(second, 1)
                await first.__aexit__(None, None, None)
                found = await receive(second, 2, seconds=2)
                assert ids([*found, rest]) == ["a", "b", "c"]
                await held[0].ack()  # its claim is gone
                assert await queue.depth(TOPIC) == 3

    async def test_prefetch_bounds_what_is_held(
        self, queue: MessageQueue, other: MessageQueue
    ) -> None:
        for number in range(10):
            await queue.publish(TOPIC, message(f"{number}"))
        async with queue.consume(TOPIC, group="g", prefetch=3) as first:
            held = await receive(first, 3)
            assert await nothing_more(first)
            async with other.consume(TOPIC, group="g", prefetch=10) as second:
                rest = await receive(second, 7)
                assert await nothing_more(second), "the first holds three, and no more"
                await asyncio.gather(*(delivery.ack() for delivery in rest))
            await held[0].ack()
            await queue.publish(TOPIC, message("next"))
            await receive(first, 1)
            assert await nothing_more(first)

    async def test_a_consumer_is_resized_and_keeps_what_it_holds(
        self, queue: MessageQueue, until: Until
    ) -> None:
        for number in range(9):
            await queue.publish(TOPIC, message(f"{number}"))
        async with queue.consume(TOPIC, group="g", prefetch=2) as consumer:
            held = await receive(consumer, 2)
            await consumer.resize(0)
            await held[0].ack()
            assert await nothing_more(consumer)
            await held[1].ack()
            assert await nothing_more(consumer), "it takes none now"
            await consumer.resize(3)
            held += await receive(consumer, 3)
            assert await nothing_more(consumer)
            await asyncio.gather(*(delivery.ack() for delivery in held[2:]))
            held += await receive(consumer, 3)
            assert len(set(ids(held))) == 8

        async def all_are_back() -> bool:  # a replicated queue takes its time
            return await queue.depth(TOPIC) == 4

        await until(all_are_back)

    async def test_two_consumers_compete_and_each_message_goes_once(
        self, queue: MessageQueue, other: MessageQueue
    ) -> None:
        assert queue.capabilities.delivery is DeliveryMode.COMPETING
        counts: dict[str, int] = {}
        shares = {"one": 0, "two": 0}
        done = asyncio.Event()

        async def work(name: str, client: MessageQueue) -> None:
            async with client.consume(TOPIC, group="g", prefetch=4) as consumer:
                async for delivery in consumer:
                    counts[delivery.message.id_] = counts.get(delivery.message.id_, 0) + 1
                    shares[name] += 1
                    await delivery.ack()
                    if sum(counts.values()) >= 200:
                        done.set()

        async with asyncio.TaskGroup() as group:
            workers = [
                group.create_task(work("one", queue)),
                group.create_task(work("two", other)),
            ]
            publishing = [queue.publish(TOPIC, message(f"{n}")) for n in range(200)]
            async with asyncio.timeout(10):
                await asyncio.gather(*publishing)
                await done.wait()
            for worker in workers:
                worker.cancel()
        assert counts == {f"{n}": 1 for n in range(200)}
        assert min(shares.values()) > 0
        assert await queue.depth(TOPIC) == 0

    async def test_a_second_publish_of_a_pending_id_changes_nothing(
        self, queue: MessageQueue
    ) -> None:
        if queue.capabilities.durable:
            pytest.skip("promised of queues in memory alone")
        for _ in range(3):
            await queue.publish(TOPIC, message("t/1", n=1))
        async with queue.consume(TOPIC, group="g", prefetch=5) as consumer:
            [delivery] = await receive(consumer, 1)
            await queue.publish(TOPIC, message("t/1", n=2))
            assert await nothing_more(consumer) and await queue.depth(TOPIC) == 1
            await delivery.ack()
            await queue.publish(TOPIC, message("t/1", n=3))
            [delivery] = await receive(consumer, 1)
            assert delivery.message.data == {"n": 3}, "no longer pending: a new message"

    async def test_topics_do_not_mix(self, queue: MessageQueue) -> None:
        await queue.publish("ns.a", message("1", where="a"))
        await queue.publish("ns.b", message("1", where="b"))
        for name in "ab":
            async with queue.consume(f"ns.{name}", group="g") as consumer:
                [delivery] = await receive(consumer, 1)
                assert delivery.message.data == {"where": name}

    async def test_an_ephemeral_topic_vanishes_with_its_consumer(
        self, queue: MessageQueue, other: MessageQueue
    ) -> None:
        inbox = "ns.inbox.w1"
        async with queue.consume(inbox, group="w1", ephemeral=True, prefetch=10) as consumer:
            await other.publish(inbox, message("1"))
            await receive(consumer, 1)
            await other.publish(inbox, message("2"))
        assert await other.depth(inbox) == 0
        await other.publish(inbox, message("3"))  # nobody will ever read it
        assert await other.depth(inbox) == 0
        async with queue.consume(inbox, group="w1", ephemeral=True) as consumer:
            await other.publish(inbox, message("4"))
            assert ids(await receive(consumer, 1)) == ["4"]

    async def test_delete_topic(self, queue: MessageQueue) -> None:
        await queue.delete_topic(TOPIC)
        await queue.publish(TOPIC, message("1"))
        async with queue.consume(TOPIC, group="g", prefetch=2) as consumer:
            [delivery] = await receive(consumer, 1)
            await queue.publish(TOPIC, message("2"))
            await queue.delete_topic(TOPIC)
            await delivery.ack()
            assert await queue.depth(TOPIC) == 0
        await queue.publish(TOPIC, message("3"))
        assert await queue.depth(TOPIC) == 1

    async def test_purge_takes_one_namespace_alone(self, queue: MessageQueue) -> None:
        mine = ["app.control_plane", "app.echo", "app.v1.2", "app.a%7D}*?"]
        others = ["app.v2.control_plane", "app.v2.echo", "apple.echo", "other.app.echo", "app"]
        for topic in (*mine, *others):
            await queue.publish(topic, message("1"))
        assert await queue.purge("app") == len(mine)
        assert [await queue.depth(topic) for topic in mine] == [0] * len(mine)
        assert [await queue.depth(topic) for topic in others] == [1] * len(others)
        assert await queue.purge("app") == 0
        await queue.publish(mine[0], message("2"))
        assert await queue.depth(mine[0]) == 1
        assert await queue.purge("app.v2") == 2

    async def test_awkward_but_legal_topic_names(self, queue: MessageQueue) -> None:
        for topic in ("ns.a service", "ns.ünïcode", "ns.%2F?#&", "ns.lease"):
            await queue.publish(topic, message("1"))
            assert await queue.depth(topic) == 1
            async with queue.consume(topic, group="g") as consumer:
                [delivery] = await receive(consumer, 1)
                assert delivery.topic == topic
                await delivery.ack()

    async def test_a_consumer_that_stops_waiting_loses_nothing(self, queue: MessageQueue) -> None:
        async with queue.consume(TOPIC, group="g") as consumer:
            for number in range(20):
                waiting = asyncio.create_task(anext(aiter(consumer)))
                await asyncio.sleep(0)
                publishing = asyncio.create_task(queue.publish(TOPIC, message(f"{number}")))
                if number % 2:
                    await asyncio.sleep(0)
                waiting.cancel()
                await publishing
                try:
                    delivery = await waiting
                except asyncio.CancelledError:
                    [delivery] = await receive(consumer, 1)
                assert delivery.message.id_ == f"{number}"
                await delivery.ack()

    async def test_closing_the_queue_hands_back_and_ends_consumers(
        self, queue: MessageQueue, other: MessageQueue
    ) -> None:
        await queue.publish(TOPIC, message("1"))
        consumer = await queue.consume(TOPIC, group="g").__aenter__()
        await receive(consumer, 1)
        waiting = asyncio.create_task(anext(aiter(consumer)))
        await asyncio.sleep(0)
        await queue.aclose()
        await queue.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
        async with other.consume(TOPIC, group="g") as second:
            assert ids(await receive(second, 1, seconds=2)) == ["1"]

    async def test_full_topics_refuse_and_recover(self, queue: MessageQueue) -> None:
        if queue.capabilities.durable:
            pytest.skip("promised of queues in memory alone")
        for number in range(500):
            await queue.publish(TOPIC, message(f"{number}"))
        with pytest.raises(QueueUnavailableError, match=r"ns\.echo is full"):
            await queue.publish(TOPIC, message("too many"))
        await queue.publish("ns.other", message("fits"))
        async with queue.consume(TOPIC, group="g") as consumer:
            [delivery] = await receive(consumer, 1)
            await delivery.ack()
            await queue.publish(TOPIC, message("too many"))

    async def test_prefetch_must_be_positive(self, queue: MessageQueue) -> None:
        with pytest.raises(ConfigurationError, match="prefetch is 0"):
            queue.consume(TOPIC, group="g", prefetch=0)

    async def test_ping(self, queue: MessageQueue) -> None:
        await queue.ping()


class TestSimpleWithinTheProcess(QueueConformance):
    queue_type = "simple"

    async def open(self, stack: AsyncExitStack) -> MessageQueue:
        queue = LocalMessageQueue(self.server.broker)
        stack.push_async_callback(queue.aclose)
        return queue


class TestSimpleOverHttp(QueueConformance):
    queue_type = "simple"

    async def open(self, stack: AsyncExitStack) -> MessageQueue:
        queue = open_queue("simple", self.server.url)
        stack.push_async_callback(queue.aclose)
        return queue


class TestRedis(QueueConformance):
    """Competing consumers; a database of its own."""

    queue_type = "redis"

    @pytest.fixture
    async def stack(
        self, redis_server: Any, monkeypatch: pytest.MonkeyPatch, unique: str
    ) -> AsyncIterator[AsyncExitStack]:
        # The suite's topics have fixed names: each test gets a part of the server of its own.
        monkeypatch.setattr(redis_topic, "PREFIX", f"llamadeploy:{unique}")
        self.uri = redis_server.uri
        async with AsyncExitStack() as stack:
            yield stack

    async def open(self, stack: AsyncExitStack) -> MessageQueue:
        queue = open_queue("redis", self.uri, {"exclusive_mode": True})
        stack.push_async_callback(queue.aclose)
        return queue


class TestRabbitMQ(QueueConformance):
    """Quorum queues in a virtual host of the test's own."""

    queue_type = "rabbitmq"

    @pytest.fixture
    async def stack(
        self, rabbitmq_server: Any, rabbitmq_vhost: str
    ) -> AsyncIterator[AsyncExitStack]:
        self.url = rabbitmq_server.url(rabbitmq_vhost)
        async with AsyncExitStack() as stack:
            yield stack

    async def open(self, stack: AsyncExitStack) -> MessageQueue:
        queue = RabbitMQMessageQueue(url=self.url)
        stack.push_async_callback(queue.aclose)
        return queue

    async def test_nack_delivers_again_in_front_of_newer_messages(
        self, queue: MessageQueue
    ) -> None:
        """Newer than those that were held: among these the order of their return counts, and the
        room of an acknowledged one gives "d" to the consumer before the others come back."""
        for name in "abcde":
            await queue.publish(TOPIC, message(name))
        async with queue.consume(TOPIC, group="g", prefetch=3) as consumer:
            held = await receive(consumer, 3)
            assert ids(held) == ["a", "b", "c"]
            await held[1].ack()
            await held[2].nack()
            await held[0].nack()
            await held[0].nack()
        async with queue.consume(TOPIC, group="g", prefetch=4) as consumer:
            again = ids(await receive(consumer, 4))
            assert sorted(again) == ["a", "c", "d", "e"]
            assert again[-1] == "e"
            assert await nothing_more(consumer)


def test_every_type_passes_the_suite_or_says_why_not() -> None:
    without = {name for name, entry in QUEUE_TYPES.items() if not entry.unavailable} - set(SUITES)
    assert not without, f"no conformance class for {without}"
    assert set(SUITES) <= set(QUEUE_TYPES)
