"""What the adapter makes of RabbitMQ: settings, errors, dead letters, counting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiormq
import pytest

from llamadeploy.exceptions import ConfigurationError, QueueError, QueueUnavailableError
from llamadeploy.message_queues import RabbitMQMessageQueue, RabbitMQMessageQueueConfig
from llamadeploy.message_queues.rabbitmq import consumer as consumers
from llamadeploy.message_queues.rabbitmq import topology
from llamadeploy.message_queues.rabbitmq.topology import DEAD_LETTERS

TOPIC = "ns.echo"

HOLD = """
import asyncio, sys
from llamadeploy.message_queues.rabbitmq.queue import RabbitMQMessageQueue

async def hold(url, topic, count):
    async with RabbitMQMessageQueue(url=url).consume(topic, group="g", prefetch=count) as consumer:
        for _ in range(count):
            await anext(consumer)
        print("holding", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@asynccontextmanager
async def holder(url: str, topic: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that consumes messages and acknowledges none."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, url, topic, str(count), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"holding\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_documented_snippet_runs(
    rabbitmq_server: Any, rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch, message: Any
) -> None:
    for name, value in {
        "USERNAME": "guest",
        "PASSWORD": "guest",
        "HOST": "127.0.0.1",
        "PORT": str(rabbitmq_server.port),
        "VHOST": rabbitmq_vhost,
        "EXCHANGE_NAME": "mine",
    }.items():
        monkeypatch.setenv(f"RABBITMQ_{name}", value)
    queue = RabbitMQMessageQueue(**RabbitMQMessageQueueConfig())
    await queue.publish(TOPIC, message("1"))
    assert await queue.depth(TOPIC) == 1
    await queue.aclose()
    found = rabbitmq_server.management("GET", f"/api/queues/{rabbitmq_vhost}/{TOPIC}")
    assert (found["type"], found["durable"]) == ("quorum", True)
    bindings = rabbitmq_server.management("GET", f"/api/queues/{rabbitmq_vhost}/{TOPIC}/bindings")
    assert ("mine", TOPIC) in {(item["source"], item["routing_key"]) for item in bindings}


async def test_tls(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any, receive: Any
) -> None:
    queue = open_queue(rabbitmq_server.tls_url(rabbitmq_vhost))
    async with queue.consume(TOPIC, group="g") as consumer:
        await queue.publish(TOPIC, message("1"))
        await (await receive(consumer))[0].ack()


async def test_two_virtual_hosts_are_apart(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any
) -> None:
    await open_queue(rabbitmq_server.url(rabbitmq_vhost)).publish(TOPIC, message("1"))
    assert await open_queue(rabbitmq_server.url()).depth(TOPIC) == 0


async def test_refusals_say_what_is_wrong_without_the_password(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any
) -> None:
    wrong = open_queue(rabbitmq_server.url(rabbitmq_vhost, login="guest:secret"))
    missing = open_queue(rabbitmq_server.url("missing", login="guest:guest"))
    for queue, words in ((wrong, "ACCESS_REFUSED"), (missing, "virtual host.*does not exist")):
        with pytest.raises(QueueError, match=rf"127\.0\.0\.1:\d+.*{words}") as raised:
            await queue.publish(TOPIC, message("1"))
        assert not isinstance(raised.value, QueueUnavailableError)
        assert "secret" not in str(raised.value)
        assert "secret" not in repr(queue)
        with pytest.raises(QueueError):
            async with queue.consume(TOPIC, group="g") as consumer:
                await anext(consumer)


async def test_a_queue_of_another_kind_is_named(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any
) -> None:
    path = f"/api/queues/{rabbitmq_vhost}/{TOPIC}"
    rabbitmq_server.management("PUT", path, {"durable": True})
    with pytest.raises(QueueError, match=r"PRECONDITION_FAILED.*made by something else"):
        await open_queue(rabbitmq_server.url(rabbitmq_vhost)).consume(TOPIC, group="g").__aenter__()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://h"}, r"amqp\[s\]://user:password@host"),
        ({"url": "amqp://u:secret@h:port/"}, "url is wrong"),
        ({"url": "amqp://h/", "exchange_name": "a+b"}, r"exchange_name is 'a\+b'"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        RabbitMQMessageQueue(**options)
    assert "secret" not in str(raised.value)


async def test_a_topic_too_long_is_refused(rabbitmq_server: Any, open_queue: Any) -> None:
    with pytest.raises(ConfigurationError, match="1 to 242 characters"):
        open_queue(rabbitmq_server.url()).consume("ü" * 60, group="g")


@pytest.mark.defect(10)
async def test_a_poison_message_becomes_a_dead_letter_and_the_consumer_lives(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any, receive: Any
) -> None:
    queue = open_queue(rabbitmq_server.url(rabbitmq_vhost))
    connection = await aiormq.connect(rabbitmq_server.url(rabbitmq_vhost))
    channel = await connection.channel()
    async with queue.consume(TOPIC, group="g") as consumer:
        for body in (b"", b"\xff", b"{", b"[]", b'{"id_": 5}'):
            await channel.basic_publish(body, exchange="llama-deploy", routing_key=TOPIC)
        await queue.publish(TOPIC, message("good"))
        [delivery] = await receive(consumer)
        assert delivery.message.id_ == "good"
        await delivery.ack()
        async with asyncio.timeout(5):
            while await queue.ready(TOPIC + DEAD_LETTERS) < 5:
                await asyncio.sleep(0.01)
    letter = await channel.basic_get(TOPIC + DEAD_LETTERS)
    assert letter.body == b""
    assert letter.header.properties.headers["x-first-death-queue"] == TOPIC
    await connection.close()


async def test_what_comes_back_too_often_becomes_a_dead_letter(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any, receive: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(topology, "DELIVERY_LIMIT", 3)
    queue = open_queue(rabbitmq_server.url(rabbitmq_vhost))
    await queue.publish(TOPIC, message("1"))
    async with queue.consume(TOPIC, group="g") as consumer:
        for _ in range(4):
            await (await receive(consumer))[0].nack()
    async with queue.consume(TOPIC + DEAD_LETTERS, group="g") as letters:
        [letter] = await receive(letters)
        assert letter.message.id_ == "1"
        await letter.ack()
    assert await queue.depth(TOPIC + DEAD_LETTERS) == 0


@pytest.mark.defect(8)
async def test_kill_9_of_a_consumer_hands_on_what_it_held(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any, receive: Any
) -> None:
    url = rabbitmq_server.url(rabbitmq_vhost)
    queue = open_queue(url)
    for number in range(4):
        await queue.publish(TOPIC, message(f"{number}"))
    async with holder(url, TOPIC, 3) as process:
        assert (await queue.depth(TOPIC), await queue.ready(TOPIC)) == (4, 1)
        process.kill()
        async with queue.consume(TOPIC, group="g", prefetch=4) as consumer:
            found = await receive(consumer, 4)
            assert sorted(delivery.message.id_ for delivery in found) == ["0", "1", "2", "3"]


async def test_what_a_stopped_consumer_holds_is_not_counted_as_nothing(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any
) -> None:
    url = rabbitmq_server.url(rabbitmq_vhost)
    queue = open_queue(url)
    await queue.publish(TOPIC, message("1"))
    async with holder(url, TOPIC, 1) as process:
        assert await queue.depth(TOPIC) == 1
        process.send_signal(signal.SIGSTOP)
        assert await queue.depth(TOPIC) == 1
        process.send_signal(signal.SIGCONT)


async def test_consumers_survive_the_end_of_their_connection(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any, receive: Any
) -> None:
    queue = open_queue(rabbitmq_server.url(rabbitmq_vhost))
    inbox = f"ns.inbox.{os.getpid()}"
    async with (
        queue.consume(TOPIC, group="g") as consumer,
        queue.consume(inbox, group="w", ephemeral=True) as nudges,
    ):
        await queue.publish(TOPIC, message("1"))
        [held] = await receive(consumer)
        async with asyncio.timeout(20):
            while not (found := connections(rabbitmq_server, rabbitmq_vhost)):
                await asyncio.sleep(0.1)  # the management plugin's figures come late
        for name in found:
            rabbitmq_server.management("DELETE", f"/api/connections/{quote(name)}")
        [again] = await receive(consumer)
        assert again.message.id_ == "1"
        await held.ack()  # its claim is gone
        assert await queue.depth(TOPIC) == 1
        await again.ack()
        async with asyncio.timeout(10):
            nudged = asyncio.ensure_future(receive(nudges))
            while not nudged.done():
                await queue.publish(inbox, message("nudge"))
                await asyncio.wait({nudged}, timeout=0.05)
        assert await queue.depth(TOPIC) == 0


def connections(server: Any, vhost: str) -> list[str]:
    found = server.management("GET", f"/api/vhosts/{vhost}/connections")
    return [connection["name"] for connection in found]


async def test_a_topic_deleted_under_its_consumer_is_made_again(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any, receive: Any
) -> None:
    queue = open_queue(rabbitmq_server.url(rabbitmq_vhost))
    async with queue.consume(TOPIC, group="g") as consumer:
        await queue.publish(TOPIC, message("0"))
        await receive(consumer)
        await queue.delete_topic(TOPIC)
        await queue.publish(TOPIC, message("1"))
        assert (await receive(consumer))[0].message.id_ == "1"


async def test_a_queue_that_others_delete_and_make_again_is_consumed(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any, message: Any, receive: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The server often does not tell the consumer, and then delivers to nobody."""
    monkeypatch.setattr(consumers, "WATCH_SECONDS", 0.3)
    queue = open_queue(rabbitmq_server.url(rabbitmq_vhost))
    connection = await aiormq.connect(rabbitmq_server.url(rabbitmq_vhost))
    channel = await connection.channel()
    async with queue.consume(TOPIC, group="g") as consumer:
        await channel.queue_delete(TOPIC)
        await topology.Topology("llama-deploy").declare_topic(channel, TOPIC)
        for number in range(3):
            await queue.publish(TOPIC, message(f"{number}"))
        found = set()
        while len(found) < 3:
            [delivery] = await receive(consumer, seconds=20)
            found.add(delivery.message.id_)
            with contextlib.suppress(QueueUnavailableError):
                await delivery.ack()
    await connection.close()


class Idle:
    """A consumer that the census answers for."""

    held = 0

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def remade(self) -> None:
        raise AssertionError("nobody deleted its queue")


async def test_consumers_that_join_while_the_first_opens_the_census(
    rabbitmq_server: Any, rabbitmq_vhost: str, open_queue: Any
) -> None:
    queue = open_queue(rabbitmq_server.url(rabbitmq_vhost))
    async with queue.consume("ns.first", group="g"):
        census = open_queue(rabbitmq_server.url(rabbitmq_vhost))._census
        first = asyncio.create_task(census.join(Idle("ns.first")))
        async with asyncio.timeout(10):
            while not census._queue:  # then it binds what it answers for
                await asyncio.sleep(0)
            await asyncio.gather(first, census.join(Idle("ns.second")))
            assert await queue.depth("ns.first") == await queue.depth("ns.second") == 0
