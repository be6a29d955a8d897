from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from llamadeploy.message_queues.base import Consumer, Delivery
from llamadeploy.message_queues.rabbitmq.queue import RabbitMQMessageQueue
from llamadeploy.messages import ActionTypes, QueueMessage


@pytest.fixture
async def open_queue() -> AsyncIterator[Callable[..., RabbitMQMessageQueue]]:
    """Makes adapters, each as another process would have; closed after the test."""
    queues: list[RabbitMQMessageQueue] = []

    def opener(url: str, **options: str) -> RabbitMQMessageQueue:
        queues.append(RabbitMQMessageQueue(url=url, **options))
        return queues[-1]

    yield opener
    for queue in queues:
        await queue.aclose()


@pytest.fixture
def message() -> Callable[..., QueueMessage]:
    def make(id_: str, **data: object) -> QueueMessage:
        return QueueMessage(id_=id_, type="echo", action=ActionTypes.NEW_TASK, data=data)

    return make


@pytest.fixture
def receive() -> Callable[..., object]:
    async def take(consumer: Consumer, count: int = 1, seconds: float = 10.0) -> list[Delivery]:
        """The next ``count`` deliveries; a time-out is the test's failure."""
        found: list[Delivery] = []
        async with asyncio.timeout(seconds):
            while len(found) < count:
                found.append(await anext(aiter(consumer)))
        return found

    return take
