"""What the queue itself gives up: an orchestrator makes errors of tasks and letters of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiormq
import pytest

from llamadeploy.message_queues.rabbitmq import topology
from llamadeploy.message_queues.rabbitmq.queue import RabbitMQMessageQueue
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


@pytest.mark.rule(10)
@pytest.mark.defect(10)
async def test_what_cannot_be_read_is_kept_for_people_and_harms_nobody(
    on_rabbitmq: Any, queue: Any, rabbitmq_server: Any, rabbitmq_vhost: str, wait_until: Any
) -> None:
    topic = f"{NAMESPACE}.echo"
    bodies = [b"\xff\x00{", b'{"id_": 5, "url": "amqp://u:secret@h/"}', b"x" * 2000]
    connection = await aiormq.connect(rabbitmq_server.url(rabbitmq_vhost))
    channel = await connection.channel(publisher_confirms=True)
    async with on_rabbitmq as plane:
        plane.workers.serve("echo", lambda job: asyncio.sleep(0, str(job.arguments["message"])))
        session = await plane.session()
        unknown = QueueMessage(action=ActionTypes.NEW_TASK, data={"task_id": "nobody"})
        await queue.publish(topic, unknown)  # from here on there is a topic
        for body in bodies:
            await channel.basic_publish(body, exchange="llama-deploy", routing_key=topic)
        task = await plane.task(session, "echo", message="good")
        result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=20")
        assert result["result"] == "good"
        await queue.publish(topic + topology.DEAD_LETTERS, unknown)

        async def dealt_with() -> bool:
            letters = await plane.control_plane.dead_letters()
            return len(letters) == 3 and await queue.depth(topic + topology.DEAD_LETTERS) == 0

        await wait_until(dealt_with, 30)
        letters = await plane.control_plane.dead_letters()
        assert {letter.service for letter in letters} == {"echo"}
        assert all("cannot be read" in letter.reason for letter in letters)
        assert sorted(letter.message for letter in letters) == sorted(map(excerpt, bodies))
        assert await plane.control_plane.problems() == []
    await connection.close()


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
