"""The message queues of LlamaDeploy 0.8.1 that this release can configure, but not use."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from llamadeploy.exceptions import UnsupportedFeatureError
from llamadeploy.message_queues.base import Capabilities, Consumer, DeliveryMode
from llamadeploy.message_queues.config import (
    AWSMessageQueueConfig,
    KafkaMessageQueueConfig,
    QueueConfig,
    SolaceMessageQueueConfig,
)
from llamadeploy.messages import QueueMessage


class UnavailableMessageQueue:
    """Takes its configuration (one object, or its fields as arguments) and refuses to be used.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[QueueConfig]]
    delivery: ClassVar[Capabilities]

    def __init__(self, config: QueueConfig | None = None, **options: Any) -> None:
        self._config = config if config is not None else self.config_class(**options)

    def as_config(self) -> QueueConfig:
        """The configuration it was made with."""
        return self._config

    @property
    def capabilities(self) -> Capabilities:
        """What the queue will promise once it can be used."""
        return self.delivery

    async def publish(self, topic: str, message: QueueMessage) -> None:
        """Raise UnsupportedFeatureError."""
        self._refuse()

    def consume(
        self, topic: str, *, group: str, prefetch: int = 1, ephemeral: bool = False
    ) -> Consumer:
        """Raise UnsupportedFeatureError."""
        self._refuse()

    async def depth(self, topic: str) -> int:
        """Raise UnsupportedFeatureError."""
        self._refuse()

    async def ready(self, topic: str) -> int:
        """Raise UnsupportedFeatureError."""
        self._refuse()

    async def delete_topic(self, topic: str) -> None:
        """Raise UnsupportedFeatureError."""
        self._refuse()

    async def purge(self, namespace: str) -> int:
        """Raise UnsupportedFeatureError."""
        self._refuse()

    async def ping(self) -> None:
        """Raise UnsupportedFeatureError."""
        self._refuse()

    async def aclose(self) -> None:
        """Nothing to release."""

    def _refuse(self) -> NoReturn:
        raise UnsupportedFeatureError(
            f"the message queue {self.name!r} is not available in this release: use type 'simple'"
        )


class KafkaMessageQueue(UnavailableMessageQueue):
    """Apache Kafka."""

    name = "kafka"
    config_class = KafkaMessageQueueConfig
    delivery = Capabilities(DeliveryMode.COMPETING, ordered=False, durable=True)


class AWSMessageQueue(UnavailableMessageQueue):
    """AWS SQS."""

    name = "aws"
    config_class = AWSMessageQueueConfig
    delivery = Capabilities(DeliveryMode.COMPETING, ordered=False, durable=True)


class SolaceMessageQueue(UnavailableMessageQueue):
    """Solace, which this project does not support."""

    name = "solace"
    config_class = SolaceMessageQueueConfig
    delivery = Capabilities(DeliveryMode.COMPETING, ordered=True, durable=True)

    def __init__(self, config: QueueConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnsupportedFeatureError(
            "the message queue 'solace' is not supported: use simple, redis, rabbitmq, kafka or aws"
        )
