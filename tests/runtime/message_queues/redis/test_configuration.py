"""Settings from the environment of LlamaDeploy 0.8.1."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.message_queues import RedisMessageQueue, RedisMessageQueueConfig
from llamadeploy.message_queues.base import DeliveryMode
from llamadeploy.messages import QueueMessage


async def test_the_documented_snippet_runs(
    own_redis: Any, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_redis.command("CONFIG", "SET", "requirepass", "s3cr3t")
    values = {"HOST": "127.0.0.1", "PORT": str(own_redis.port), "DB": "3", "PASSWORD": "s3cr3t"}
    for name, value in {**values, "EXCLUSIVE_MODE": "true"}.items():
        monkeypatch.setenv(f"REDIS_{name}", value)
    config = RedisMessageQueueConfig()
    assert "s3cr3t" not in repr(config)
    queue = RedisMessageQueue(**config)
    assert "s3cr3t" not in repr(queue)
    assert queue.capabilities.delivery is DeliveryMode.COMPETING
    await queue.publish(unique, QueueMessage(id_="1"))
    await queue.aclose()
    for database, depth in (("3", 1), ("0", 0)):
        monkeypatch.setenv("REDIS_DB", database)
        other = RedisMessageQueue(**RedisMessageQueueConfig())
        assert await other.depth(unique) == depth
        await other.aclose()
