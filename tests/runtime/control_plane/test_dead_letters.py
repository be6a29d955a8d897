"""What the queue itself gives up: an orchestrator makes errors of tasks and letters of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiormq
import pytest
from redis.asyncio import Redis

from llamadeploy.message_queues.rabbitmq import topology
from llamadeploy.message_queues.rabbitmq.queue import RabbitMQMessageQueue
from llamadeploy.message_queues.redis.queue import RedisMessageQueue
from llamadeploy.message_queues.redis.topic import stream_key
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.orchestration.dead_letter_loop import excerpt

NAMESPACE = "llama_deploy.test"


@pytest.fixture
async def queue(rabbitmq_server: Any, rabbitmq_vhost: str) -> AsyncIterator[RabbitMQMessageQueue]:
    """Another process's view of the plane's queue, for the test itself."""
    queue = RabbitMQMessageQueue(url=rabbitmq_server.url(rabbitmq_vhost))
    yield queue
    await queue.aclose()


@pytest.fixture
def on_rabbitmq(open_plane: Any, rabbitmq_server: Any, rabbitmq_vhost: str) -> Any:
    return open_plane(queue=RabbitMQMessageQueue(url=rabbitmq_server.url(rabbitmq_vhost)))


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Any:
    """Makes clients of a queue that others publish to as well; with it, how they do that."""
    if request.param == "rabbitmq":
        server = request.getfixturevalue("rabbitmq_server")
        url = server.url(request.getfixturevalue("rabbitmq_vhost"))

        async def put(topic: str, body: bytes) -> None:
            connection = await aiormq.connect(url)
            channel = await connection.channel(publisher_confirms=True)
            await channel.basic_publish(body, exchange="llama-deploy", routing_key=topic)
            await connection.close()

        return partial(RabbitMQMessageQueue, url=url), put
    uri = request.getfixturevalue("own_redis").uri

    async def add(topic: str, body: bytes) -> None:
        async with Redis.from_url(uri) as client:
            await client.xadd(stream_key(topic), {"m": body})

    return partial(RedisMessageQueue, url=uri, exclusive_mode=True), add


@pytest.mark.rule(10)
@pytest.mark.defect(10)
async def test_what_cannot_be_read_is_kept_for_people_and_harms_nobody(
    open_plane: Any, broker: Any, wait_until: Any
) -> None:
    connect, put = broker
    topic = f"{NAMESPACE}.echo"
    bodies = [b"\xff\x00{", b'{"id_": 5, "url": "amqp://u:secret@h/"}', b"x" * 2000]
    async with open_plane(queue=connect()) as plane:
        plane.workers.serve("echo", lambda job: asyncio.sleep(0, str(job.arguments["message"])))
        session = await plane.session()
        first = await plane.task(session, "echo", message="first")
        assert (await plane.control_plane.wait_result(first, 60)).result == "first"
        # So there is a topic, and others can publish to it.
        for body in bodies:
            await put(topic, body)
        task = await plane.task(session, "echo", message="good")
        result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=20")
        assert result["result"] == "good"

        async def dealt_with() -> bool:
            return len(await plane.control_plane.dead_letters()) == len(bodies)

        await wait_until(dealt_with, 30)
        letters = await plane.control_plane.dead_letters()
        assert {letter.service for letter in letters} == {"echo"}
        assert all("cannot be read" in letter.reason for letter in letters)
        assert sorted(letter.message for letter in letters) == sorted(map(excerpt, bodies))
        assert await plane.control_plane.problems() == []


async def test_a_dead_letter_of_an_unknown_task_is_forgotten(
    on_rabbitmq: Any, queue: Any, wait_until: Any
) -> None:
    topic = f"{NAMESPACE}.echo"
    async with on_rabbitmq as plane:
        plane.workers.serve("echo", lambda job: asyncio.sleep(0, "done"))
        task = await plane.task(await plane.session(), "echo", message="1")
        assert (await plane.control_plane.wait_result(task, 20)).result == "done"
        unknown = QueueMessage(action=ActionTypes.NEW_TASK, data={"task_id": "nobody"})
        await queue.publish(topic + topology.DEAD_LETTERS, unknown)

        async def dealt_with() -> bool:
            return await queue.depth(topic + topology.DEAD_LETTERS) == 0

        await wait_until(dealt_with, 30)
        assert await plane.control_plane.dead_letters() == []


@pytest.mark.rule(10)
async def test_a_task_whose_message_was_given_up_fails_and_can_be_retried(
    on_rabbitmq: Any, queue: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "DELIVERY_LIMIT", 1)
    async with on_rabbitmq as plane:
        session = await plane.session()
        task = await plane.task(session, "slow", message="again")
        async with queue.consume(f"{NAMESPACE}.slow", group="g") as consumer:
            for _ in range(2):
                async with asyncio.timeout(20):
                    delivery = await anext(consumer)
                await delivery.nack()
        result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=20")
        assert "delivered too often" in result["result"]
        [letter] = await plane.control_plane.dead_letters()
        assert (letter.task_id, letter.service) == (task, "slow")
        plane.workers.serve("slow", lambda job: asyncio.sleep(0, str(job.arguments["message"])))
        await plane.control_plane.retry_dead_letter(letter.letter_id)
        result = await plane.control_plane.wait_result(task, 20)
        assert result.result == "again"


def test_an_excerpt_shows_neither_controls_nor_passwords() -> None:
    assert excerpt(b"\xff\x00\n\xc3\xbc") == "\\xff\\x00\\n\u00fc"
    assert "secret" not in excerpt(b"amqp://u:secret@h/")
    assert excerpt(b"x" * 2000).endswith("x... (2000 bytes)")
