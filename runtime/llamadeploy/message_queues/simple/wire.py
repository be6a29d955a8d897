"""What the simple queue's HTTP API takes and gives, beyond the routes of LlamaDeploy 0.8.1."""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import ValidationError

from llamadeploy.messages import QueueMessage

ConsumerId = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
TopicName = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class LeaseRequest(msgspec.Struct):
    """Body of ``POST /messages/{topic}/lease``; the reply comes with the first message, after
    ``wait`` seconds, or when the consumer expires. ``received``: see ``Broker.lease``."""

    consumer: ConsumerId
    max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    wait: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    ephemeral: bool = False
    received: int | None = None


class Delivered(msgspec.Struct):
    """A leased message."""

    tag: int
    message: msgspec.Raw


class LeaseReply(msgspec.Struct):
    """Reply of ``lease``, oldest message first."""

    deliveries: list[Delivered]


class SettleRequest(msgspec.Struct):
    """Body of ``POST /messages/{topic}/ack`` and ``/nack``."""

    consumer: ConsumerId
    tags: Annotated[list[int], msgspec.Meta(max_length=10_000)]


class SettleReply(msgspec.Struct):
    """How many of the tags the consumer still held; the others were lost before and stay so."""

    settled: int


class HeartbeatRequest(msgspec.Struct):
    """Body of ``POST /heartbeat``."""

    consumers: Annotated[list[ConsumerId], msgspec.Meta(max_length=10_000)]


class HeartbeatReply(msgspec.Struct):
    """The consumers that the server does not know (any more), so that hold nothing."""

    lost: list[str]


class Publication(msgspec.Struct):
    """One item of ``POST /messages``; the topic is made where there is none."""

    topic: TopicName
    message: msgspec.Raw


class Refusal(msgspec.Struct):
    """Why an item of a batch was not accepted."""

    status: int
    detail: str


class DepthReply(msgspec.Struct):
    """Reply of ``GET /messages/{topic}/depth``; ``ready`` is the part that nobody holds."""

    depth: int
    ready: int = 0


def encode_message(message: QueueMessage) -> bytes:
    """The message's JSON text, stamped with the time of its publishing where it has none."""
    if message.stats.publish_time is None:
        message.stats.publish_time = message.stats.timestamp_str()
    return message.model_dump_json().encode()


def decode_message(body: bytes | msgspec.Raw) -> QueueMessage:
    """The message of a JSON text.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    try:
        return QueueMessage.model_validate_json(bytes(body))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise ValueError("not a queue message: " + "; ".join(problems)) from None
