"""The exchanges and queues of a topic, and how they are made."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.message_queues.rabbitmq.driver import Channel

DELIVERY_LIMIT = 1000
"""A message that came back so often becomes a dead letter. High, because every end of a worker
counts for each message it had prefetched."""

LETTER_DELIVERY_LIMIT = 1_000_000_000
"""A dead letter stays until somebody has dealt with it; servers from 4.0 on default to 20."""

DEAD_LETTERS = ".dead-letters"

SEAL_MILLISECONDS = 60_000
"""When the server deletes a seal that was left behind."""

_SAFE = "-_.:@#,/ "


@dataclass(frozen=True, slots=True)
class Topology:
    """Names that follow from the configuration's ``exchange_name``."""

    exchange: str

    @property
    def dead_letter_exchange(self) -> str:
        """Feeds the queues of dead letters."""
        return f"{self.exchange}.dead-letters"

    @property
    def census_exchange(self) -> str:
        """Reaches the consumers of a topic."""
        return f"{self.exchange}.census"

    async def declare_topic(self, channel: Channel, topic: str) -> None:
        """Make a topic, its queue of dead letters and what feeds them. Idempotent."""
        await channel.exchange_declare(self.exchange, durable=True)
        arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        if not topic.endswith(DEAD_LETTERS):
            await channel.exchange_declare(self.dead_letter_exchange, durable=True)
            await self._declare_dead_letters(channel, topic)
            arguments["x-dead-letter-exchange"] = self.dead_letter_exchange
            arguments["x-dead-letter-routing-key"] = topic
            arguments["x-delivery-limit"] = DELIVERY_LIMIT
        else:
            arguments["x-delivery-limit"] = LETTER_DELIVERY_LIMIT
        await channel.queue_declare(queue_name(topic), durable=True, arguments=arguments)
        await channel.queue_bind(queue_name(topic), self.exchange, topic)

    async def _declare_dead_letters(self, channel: Channel, topic: str) -> None:
        letters = topic + DEAD_LETTERS
        queue = queue_name(letters)
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-delivery-limit": LETTER_DELIVERY_LIMIT,
        }
        await channel.queue_declare(queue, durable=True, arguments=arguments)
        await channel.queue_bind(queue, self.dead_letter_exchange, topic)
        await channel.queue_bind(queue, self.exchange, letters)

    async def seal(self, channel: Channel) -> None:
        """Make sure of what was declared just before.

        RabbitMQ 3.10 holds the name of the newest quorum queue back from its disk for about a
        second: killed then, it starts with a queue that has no leader and answers nobody. The next
        such queue that is made has it written; so we make one, and delete it.
        """
        name = f"{self.exchange}+seal.{uuid.uuid4().hex}"
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-expires": SEAL_MILLISECONDS}
        await channel.queue_declare(name, durable=True, arguments=arguments)
        await channel.queue_delete(name)

    async def declare_inbox(self, channel: Channel, topic: str) -> str:
        """Make a queue that goes with this connection; returns its name, which is new each time:
        the one of a connection that broke may still be there for a while."""
        await channel.exchange_declare(self.exchange, durable=True)
        declared = await channel.queue_declare("", exclusive=True, auto_delete=True)
        queue = declared.queue or ""
        await channel.queue_bind(queue, self.exchange, topic)
        return queue


def queue_name(topic: str) -> str:
    """The topic's queue: its name, with ``+`` and two digits for bytes that clients refuse."""
    return quote(topic, safe=_SAFE).replace("%", "+")


def check_topic(topic: str) -> None:
    """Raises ConfigurationError where the server cannot have a queue of that name."""
    size = len(queue_name(topic + DEAD_LETTERS))
    if not topic or size > 255 or topic.startswith("amq."):
        raise ConfigurationError(
            f"topic {topic!r} cannot be used with rabbitmq: its queue's name must have 1 to "
            f"{255 - len(DEAD_LETTERS)} characters and must not begin with 'amq.'"
        )


def check_exchange(name: str) -> str:
    """The name; raises ConfigurationError where the server or the client would refuse it."""
    if not name or name.startswith("amq.") or len(name) > 200 or "+" in queue_name(name):
        raise ConfigurationError(
            f"exchange_name is {name!r}: it must have 1 to 200 letters, digits, spaces or any of "
            "'-_.:@#,/', and must not begin with 'amq.'"
        )
    return name
