"""The HTTP adapter when servers go away, consumers die, and answers get lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llamadeploy.exceptions import ConfigurationError, QueueError, QueueUnavailableError
from llamadeploy.message_queues.base import Delivery
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.client import SimpleMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.messages import QueueMessage

TOPIC = "ns.echo"
HEARTBEAT = 0.1
SILENCE = 0.6


def config_of(server: SimpleMessageQueueServer) -> SimpleMessageQueueConfig:
    return SimpleMessageQueueConfig(port=server.port)


@pytest.fixture
async def queue(server: SimpleMessageQueueServer) -> AsyncIterator[SimpleMessageQueue]:
    queue = SimpleMessageQueue(config_of(server), heartbeat=HEARTBEAT)
    yield queue
    await queue.aclose()


async def receive(consumer: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    async with asyncio.timeout(8):
        return [await anext(consumer) for _ in range(count)]


async def publish(queue: SimpleMessageQueue, names: str) -> None:
    for name in names:
        await queue.publish(TOPIC, QueueMessage(id_=name))


def ids(deliveries: list[Delivery]) -> str:
    return "".join(delivery.message.id_ for delivery in deliveries)


VICTIM = """
import asyncio, sys
from llamadeploy.message_queues.registry import open_queue
async def main():
    queue = open_queue("simple", sys.argv[1])
    async with queue.consume("ns.echo", group="g", prefetch=2) as consumer:
        async for delivery in consumer:
            print(delivery.message.id_, flush=True)
asyncio.run(main())
"""


async def test_what_a_killed_process_held_is_delivered_again_in_order(
    server: SimpleMessageQueueServer, queue: SimpleMessageQueue
) -> None:
    await publish(queue, "abcd")
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, server.url, stdout=asyncio.subprocess.PIPE
    )
    assert victim.stdout is not None
    async with asyncio.timeout(20):
        assert [(await victim.stdout.readline()).strip() for _ in "ab"] == [b"a", b"b"]
    os.kill(victim.pid, signal.SIGKILL)
    await victim.wait()
    async with queue.consume(TOPIC, group="g", prefetch=2) as consumer:
        found = await receive(consumer, 2)
        assert ids(found) == "cd", "the dead one's leases still stand"
        await asyncio.gather(*(delivery.ack() for delivery in found))
        assert ids(await receive(consumer, 2)) == "ab"


async def test_a_consumer_whose_network_is_cut_loses_its_messages_and_its_acks(
    server: SimpleMessageQueueServer, queue: SimpleMessageQueue
) -> None:
    """A proxy that swallows everything: the connections stay open, nothing arrives."""
    swallowing = False

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not swallowing:
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    cut_off = SimpleMessageQueue(
        SimpleMessageQueueConfig(port=port, client_kwargs={"timeout": 0.5}), heartbeat=HEARTBEAT
    )
    await publish(queue, "ab")
    async with cut_off.consume(TOPIC, group="g", prefetch=2) as consumer:
        held = await receive(consumer, 2)
        swallowing = True
        async with queue.consume(TOPIC, group="g", prefetch=2) as second:
            again = await receive(second, 2)
            assert ids(again) == "ab"
            with pytest.raises(QueueUnavailableError, match="in time"):
                await held[0].ack()
            swallowing = False
            await held[1].ack()  # a lost claim: nothing happens
            assert await queue.depth(TOPIC) == 2
            await asyncio.gather(*(delivery.ack() for delivery in again))
            assert await queue.depth(TOPIC) == 0
    await cut_off.aclose()
    proxy.close()


async def test_heartbeats_keep_what_is_worked_on_for_long(queue: SimpleMessageQueue) -> None:
    await publish(queue, "a")
    other = SimpleMessageQueue(queue.as_config(), heartbeat=HEARTBEAT)
    async with queue.consume(TOPIC, group="g") as consumer:
        [delivery] = await receive(consumer, 1)
        async with other.consume(TOPIC, group="g") as second:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3 * SILENCE):
                    await anext(second)
        await delivery.ack()
    assert await queue.depth(TOPIC) == 0
    await other.aclose()


async def test_an_idle_consumer_is_kept_with_its_ephemeral_topic(
    server: SimpleMessageQueueServer, queue: SimpleMessageQueue
) -> None:
    async with queue.consume("ns.inbox.w", group="w", ephemeral=True) as inbox:
        waiting = asyncio.create_task(anext(inbox))
        await asyncio.wait({waiting}, timeout=3 * SILENCE)
        await queue.publish("ns.inbox.w", QueueMessage(id_="nudge"))
        assert (await asyncio.wait_for(waiting, 5)).message.id_ == "nudge"


async def test_a_server_that_is_away_is_unavailable_and_consumers_come_back(
    server: SimpleMessageQueueServer, queue: SimpleMessageQueue
) -> None:
    await publish(queue, "a")
    async with queue.consume(TOPIC, group="g", prefetch=2) as consumer:
        [old] = await receive(consumer, 1)
        await server.stop()
        for call in (
            queue.publish(TOPIC, QueueMessage(id_="lost")),
            queue.ping(),
            queue.depth(TOPIC),
            queue.delete_topic(TOPIC),
            old.ack(),
        ):
            with pytest.raises(QueueUnavailableError, match=f"127.0.0.1:{server.port}"):
                await call
        again = SimpleMessageQueueServer(config_of(server), Broker(silence=SILENCE))
        await again.start()
        waiting = asyncio.create_task(anext(consumer))
        await queue.publish(TOPIC, QueueMessage(id_="b"))
        delivery = await asyncio.wait_for(waiting, 10)
        assert delivery.message.id_ == "b"
        await old.ack()  # of an earlier life of the server: nothing happens
        assert await queue.depth(TOPIC) == 1
        await delivery.ack()
        assert await queue.depth(TOPIC) == 0
        await again.stop()


async def test_a_message_whose_ack_failed_comes_again(
    server: SimpleMessageQueueServer, queue: SimpleMessageQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(queue, "a")
    send = queue.connection.request

    async def failing(method: str, path: str, *rest: Any) -> bytes:
        if path.endswith("/ack"):
            raise QueueUnavailableError("cut")
        return await send(method, path, *rest)

    async with queue.consume(TOPIC, group="g") as consumer:
        [delivery] = await receive(consumer, 1)
        with monkeypatch.context() as patch:
            patch.setattr(queue.connection, "request", failing)
            with pytest.raises(QueueUnavailableError):
                await delivery.ack()
        [again] = await receive(consumer, 1)
        assert again.message.id_ == "a"
        await again.ack()
    assert await queue.depth(TOPIC) == 0


async def test_a_server_that_forgot_us_makes_us_forget_what_is_not_begun(
    server: SimpleMessageQueueServer, queue: SimpleMessageQueue, until: Any
) -> None:
    await publish(queue, "abc")
    async with queue.consume(TOPIC, group="g", prefetch=3) as consumer:
        [begun] = await receive(consumer, 1)
        server.broker.close_consumer(consumer.id)  # as after a silence

        async def known_again() -> bool:
            return server.broker.heartbeat(consumer.id)

        await until(known_again)
        found = await receive(consumer, 2)
        await begun.ack()  # a lost claim: it only makes room
        found += await receive(consumer, 1)
        assert ids(found) == "abc", "b and c, which it had not begun, once"
        await asyncio.gather(*(delivery.ack() for delivery in found))
    assert await queue.depth(TOPIC) == 0


async def test_a_wrong_token_ends_the_iteration_with_its_error() -> None:
    server = SimpleMessageQueueServer(SimpleMessageQueueConfig(port=0), token="right")
    await server.start()
    good = SimpleMessageQueue(config_of(server), token="right")
    bad = SimpleMessageQueue(config_of(server), token="wrong")
    await good.publish(TOPIC, QueueMessage(id_="a"))
    with pytest.raises(QueueError, match="401") as caught:
        await bad.publish(TOPIC, QueueMessage())
    assert not isinstance(caught.value, QueueUnavailableError)
    assert "wrong" not in str(caught.value)
    with pytest.raises(QueueError, match="401"):
        async with bad.consume(TOPIC, group="g") as consumer:
            await anext(consumer)
    for queue in (good, bad):
        await queue.aclose()
    await server.stop()


async def test_something_else_at_the_address_is_a_clear_error() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    queue = SimpleMessageQueue(SimpleMessageQueueConfig(port=port))
    with pytest.raises(QueueUnavailableError, match="no message queue of ours"):
        await queue.publish(TOPIC, QueueMessage())
    await queue.aclose()
    other.close()


async def test_many_publishers_share_requests_and_errors_stay_their_own(
    queue: SimpleMessageQueue,
) -> None:
    outcomes = await asyncio.gather(
        *(queue.publish(TOPIC, QueueMessage(id_=str(n))) for n in range(600)),
        return_exceptions=True,
    )
    refused = [error for error in outcomes if error is not None]
    assert len(refused) == 100 and all(isinstance(e, QueueUnavailableError) for e in refused)
    assert await queue.depth(TOPIC) == 500


async def test_a_closed_queue_says_so(queue: SimpleMessageQueue) -> None:
    await queue.aclose()
    with pytest.raises(QueueUnavailableError, match="closed"):
        await queue.ping()


@pytest.mark.parametrize("kwargs", [{"timeout": 0}, {"timeout": "5"}, {"headers": ["a"]}])
async def test_client_kwargs_are_checked(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="client_kwargs"):
        SimpleMessageQueue(SimpleMessageQueueConfig(client_kwargs=kwargs))


async def test_slashes_in_topics_are_refused(queue: SimpleMessageQueue) -> None:
    for topic in ("a/b", ""):
        with pytest.raises(ConfigurationError, match="topic"):
            await queue.publish(topic, QueueMessage())


async def test_headers_of_client_kwargs_are_sent() -> None:
    server = SimpleMessageQueueServer(SimpleMessageQueueConfig(port=0), token="t")
    await server.start()
    config = SimpleMessageQueueConfig(
        port=server.port, client_kwargs={"headers": {"Authorization": "Bearer t"}}
    )
    queue = SimpleMessageQueue(config)
    await queue.ping()
    await queue.aclose()
    await server.stop()
