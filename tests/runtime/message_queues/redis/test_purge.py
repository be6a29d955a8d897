"""Purging where topics are on several servers."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy.exceptions import QueueUnavailableError
from llamadeploy.messages import QueueMessage


async def test_purge_reaches_every_node_of_a_cluster(connect: Any, redis_cluster: Any) -> None:
    queue = connect(f"redis://127.0.0.1:{redis_cluster[0].port}?cluster=true")
    topics = [f"app.service{number}" for number in range(12)]
    for topic in (*topics, "other.service"):
        await queue.publish(topic, QueueMessage(id_="1"))
    assert all(node.command("DBSIZE") != ":0\r\n" for node in redis_cluster)
    assert await queue.purge("app") == len(topics)
    assert [await queue.depth(topic) for topic in topics] == [0] * len(topics)
    assert await queue.depth("other.service") == 1


async def test_a_server_that_is_away_says_so(connect: Any, own_redis: Any) -> None:
    queue = connect(own_redis.uri)
    own_redis.kill()
    with pytest.raises(QueueUnavailableError, match=r"127\.0\.0\.1"):
        await queue.purge("app")
