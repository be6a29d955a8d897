"""What a topic gave up: messages that cannot be read, and those that came back too often."""

from __future__ import annotations

from typing import Any

from llamadeploy.message_queues.rabbitmq.consumer import Claim, RabbitMQConsumer, headers_of
from llamadeploy.message_queues.rabbitmq.driver import Channel, DeliveredMessage
from llamadeploy.message_queues.rabbitmq.topology import DEAD_LETTERS

REASONS = {
    "rejected": "it could not be read",
    "delivery_limit": "it was delivered too often without an acknowledgement",
    "expired": "it expired",
    "maxlen": "the queue was full",
}
"""By the server's word for it."""


class RabbitMQDeadDelivery(Claim):
    """See ``base.DeadDelivery``. Takes any body."""

    __slots__ = ("body", "reason")

    def __init__(
        self, consumer: RabbitMQConsumer[Any], channel: Channel, delivered: DeliveredMessage
    ) -> None:
        super().__init__(consumer, channel, delivered)
        self.body: bytes = delivered.body
        word = headers_of(delivered).get("x-first-death-reason")
        self.reason: str = REASONS.get(str(word), f"the queue gave it up ({word})")

    @property
    def topic(self) -> str:
        """The topic it was published to."""
        return super().topic.removesuffix(DEAD_LETTERS)
