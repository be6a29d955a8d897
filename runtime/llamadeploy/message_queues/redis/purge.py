"""Removing the topics of one namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator

from llamadeploy.exceptions import QueueError, QueueUnavailableError
from llamadeploy.message_queues.redis import topic as topics
from llamadeploy.messages import is_inbox_topic, topics_of
from llamadeploy.redis_address import RedisAddress
from llamadeploy.redis_pipe import RedisAway, RedisPipe, RedisRefused

STEP = 1000
"""Keys looked at per request: it holds the server up for about a millisecond."""


async def purge(address: RedisAddress, namespace: str, timeout: float) -> int:
    """See ``base.MessageQueue``.

    Args:
        timeout: seconds a server may owe an answer.
    """
    try:
        nodes = [RedisPipe(node, "", timeout=timeout) for node in await address.nodes()]
    except Exception as error:
        raise QueueUnavailableError(
            f"message queue: Redis at {address.shown}: {error or type(error).__name__}"
        ) from error
    try:
        return await _purge(nodes, namespace)
    except RedisAway as error:
        raise QueueUnavailableError(f"message queue: {error}") from error
    except RedisRefused as error:
        raise QueueError(f"message queue: {error}") from error
    finally:
        for pipe in nodes:
            await pipe.aclose()


async def _purge(nodes: list[RedisPipe], namespace: str) -> int:
    found: dict[str, list[tuple[RedisPipe, bytes]]] = {}
    for pipe in nodes:
        async for key in _keys(pipe, namespace):
            found.setdefault(topics.topic_of(key.decode()), []).append((pipe, key))
    count = 0
    for topic in topics_of(namespace, found):
        stream = topics.stream_key(topic).encode()
        for pipe, key in found[topic]:
            removed = await pipe.ask("UNLINK", key)
            count += removed if key == stream and not is_inbox_topic(topic) else 0
    return count


async def _keys(pipe: RedisPipe, namespace: str) -> AsyncIterator[bytes]:
    """Those of the namespace's topics, and of namespaces that begin with its name; some twice."""
    pattern = topics.key_pattern(f"{namespace}.")
    cursor = b"0"
    while True:
        cursor, keys = await pipe.ask("SCAN", cursor, "MATCH", pattern, "COUNT", STEP)
        for key in keys:
            yield key
        if cursor == b"0":
            return
