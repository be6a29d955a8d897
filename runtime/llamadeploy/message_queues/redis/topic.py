"""The script's operations on one topic."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import msgspec

from llamadeploy.exceptions import QueueError, QueueUnavailableError
from llamadeploy.redis_pipe import FREE, READ, WRITE, Library, RedisAway, RedisPipe, RedisRefused

LIBRARY = Library("queue", (files(__package__) / "queue.lua").read_text(encoding="utf-8"))

_ACCESS = {"publish": WRITE, "bury": WRITE, "join": WRITE, "depth": READ}
"""What is not here may be done by a full server: it lets messages come to their end."""

PREFIX = "llamadeploy:queue"

_encode = msgspec.msgpack.Encoder().encode


def topic_prefix(topic: str) -> str:
    """The prefix of a topic's keys. They share a hash tag, which ends at the first brace."""
    return f"{PREFIX}:{{{_escaped(topic)}}}:"


def stream_key(topic: str) -> str:
    """The key of a topic's messages."""
    return topic_prefix(topic) + "s"


def dead_prefix(topic: str) -> str:
    """The prefix of the keys of a topic's dead letters, in the topic's slot."""
    return topic_prefix(topic) + "dead:"


def topic_of(key: str) -> str:
    """The topic of one of its keys: the reverse of :func:`topic_prefix`."""
    name, _, _ = key.removeprefix(f"{PREFIX}:{{").partition("}")
    return name.replace("%7D", "}").replace("%25", "%")


def key_pattern(beginning: str) -> str:
    """What ``SCAN`` matches: all keys of the topics whose names begin so."""
    plain = re.sub(r"([*?\[\]\\^-])", r"\\\1", f"{PREFIX}:{{{_escaped(beginning)}")
    return f"{plain}*}}:*"


def _escaped(topic: str) -> str:
    return topic.replace("%", "%25").replace("}", "%7D")


async def call_topic(
    pipe: RedisPipe, prefix: str, operation: str, request: Any = None, body: bytes = b""
) -> Any:
    """Run an operation of the script.

    Args:
        body: of a message; Redis's msgpack knows no bytes.

    Raises:
        QueueUnavailableError: the server cannot be reached now; it may have been done.
        QueueError: the server refused.
    """
    try:
        return await pipe.run(
            LIBRARY, _ACCESS.get(operation, FREE), (prefix,), operation, _encode(request), body
        )
    except RedisAway as error:
        raise QueueUnavailableError(f"message queue: {error}") from error
    except RedisRefused as error:
        raise QueueError(f"message queue: {error}") from error
