"""What a durable queue lost all the same comes back, and what it has is not multiplied."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llamadeploy.message_queues.redis.queue import RedisMessageQueue
from llamadeploy.message_queues.redis.topic import stream_key
from llamadeploy.orchestration import repair
from llamadeploy.types import ServiceDefinition

NAMESPACE = "llama_deploy.test"


@pytest.mark.rule(3)
async def test_a_backlog_of_one_service_keeps_no_lost_message_of_another(
    open_plane: Any, own_redis: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "RESEND_SECONDS", 0.2)
    monkeypatch.setattr(repair, "ROUND_SECONDS", 0.2)
    queue = RedisMessageQueue(url=own_redis.uri, exclusive_mode=True)
    async with open_plane(queue=queue) as plane:
        # A third one has tasks, but nobody has said yet that there is such a service.
        for name in ("busy", "idle"):
            await plane.control_plane.register_service(ServiceDefinition(service_name=name))
        for each in ["early", "early"]:
            await plane.task(await plane.session(), each, message="waits")
        session = [await plane.session() for _ in range(4)]
        for each in session[:3]:
            await plane.task(each, "busy", message="waits")
        lost = await plane.task(session[3], "idle", message="again")
        topic = f"{NAMESPACE}.idle"
        assert await queue.depth(topic) == 1
        await queue._pipe("").ask("DEL", stream_key(topic))

        async def published_again() -> bool:
            return await queue.depth(topic) == 1

        await wait_until(published_again, 20)
        plane.workers.serve("idle", lambda job: asyncio.sleep(0, str(job.arguments["message"])))
        result = await plane.control_plane.wait_result(lost, 20)
        assert result.result == "again"
        depths = [await queue.depth(f"{NAMESPACE}.{name}") for name in ("busy", "early")]
        assert depths == [3, 2], "a backlog is not multiplied"
