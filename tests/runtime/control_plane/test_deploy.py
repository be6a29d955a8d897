"""deploy_core and ControlPlaneServer: manual orchestration, without an API server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.deploy import deploy_core
from llamadeploy.control_plane.server import ControlPlaneServer
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.orchestrator import SimpleOrchestrator
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import TaskResult


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def core(**options: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(deploy_core(**options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def answer(http: aiohttp.ClientSession, url: str) -> Any:
    """The reply of ``url`` as soon as somebody listens there."""
    async with asyncio.timeout(10):
        while True:
            try:
                async with http.get(url) as response:
                    return await response.json()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


async def test_a_core_serves_queue_and_control_plane_until_cancelled() -> None:
    config = ControlPlaneConfig(port=free_port())
    queue_config = SimpleMessageQueueConfig(port=free_port())
    async with aiohttp.ClientSession() as http:
        async with core(control_plane_config=config, message_queue_config=queue_config):
            assert (await answer(http, config.url + "/"))["running"] == "True"
            found = await answer(http, config.url + "/queue_config")
            assert found["SimpleMessageQueueConfig"]["port"] == queue_config.port
            await answer(http, queue_config.base_url)
            async with http.post(config.url + "/sessions/create") as response:
                session = await response.json()
            body = {"input": "{}", "service_id": "s"}
            async with http.post(f"{config.url}/sessions/{session}/tasks", json=body) as response:
                task = await response.json()
            # A service of 0.8.1's kind takes it from the queue and answers there.
            url = f"{queue_config.base_url}messages/llama_deploy.s"
            async with http.get(url) as response:
                message = await response.json()
            assert message["data"]["task_id"] == task
            done = QueueMessage(
                action=ActionTypes.COMPLETED_TASK,
                data=TaskResult(task_id=task, result="done").model_dump(),
            ).model_dump(mode="json")
            url = f"{queue_config.base_url}messages/llama_deploy.control_plane"
            async with http.post(url, json=done) as response:
                assert response.status == 200
            url = f"{config.url}/sessions/{session}/tasks/{task}/result?wait=10"
            assert (await answer(http, url))["result"] == "done"
        for url in (config.url, queue_config.base_url):
            with pytest.raises(aiohttp.ClientConnectionError):
                await http.get(url)


async def test_queue_and_control_plane_may_run_apart() -> None:
    config = ControlPlaneConfig(port=free_port())
    queue_config = SimpleMessageQueueConfig(port=free_port())
    both = {"control_plane_config": config, "message_queue_config": queue_config}
    async with (
        aiohttp.ClientSession() as http,
        core(disable_control_plane=True, **both),
    ):
        await answer(http, queue_config.base_url)
        async with core(disable_message_queue=True, **both):
            assert (await answer(http, config.url + "/readyz"))["status"] == "ok"


async def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="nothing to run"):
        await deploy_core(disable_message_queue=True, disable_control_plane=True)


async def test_a_port_in_use_is_an_error_that_names_it_and_stops_the_rest() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        queue_config = SimpleMessageQueueConfig(port=free_port())
        with pytest.raises(ConfigurationError, match=str(port)):
            await deploy_core(ControlPlaneConfig(port=port), queue_config)
    again = SimpleMessageQueueServer(queue_config)
    await again.start()
    await again.stop()


async def test_a_server_is_made_as_in_the_original() -> None:
    published: list[QueueMessage] = []

    async def callback(message: QueueMessage) -> None:
        published.append(message)

    config = ControlPlaneConfig(port=free_port(), topic_namespace="mine")
    queue = LocalMessageQueue(Broker())
    server = ControlPlaneServer(queue, SimpleOrchestrator(), callback, config=config)
    assert server.get_topic("s") == "mine.s"
    assert server.message_queue is queue
    launched = asyncio.create_task(server.launch_server())
    async with aiohttp.ClientSession() as http:
        await answer(http, config.url + "/")
        consume = await server.register_to_message_queue()
        consuming = asyncio.create_task(consume())
        session = await server.control_plane.create_session()
        task = {"input": "{}", "task_id": "t", "session_id": session, "service_id": "s"}
        await server.process_message(QueueMessage(action=ActionTypes.NEW_TASK, data=task))
        assert [m.data["task_id"] for m in published] == ["t"]
        await server.handle_service_completion(TaskResult(task_id="t", result="done"))
        url = f"{config.url}/sessions/{session}/tasks/t/result"
        assert (await answer(http, url))["result"] == "done"
    launched.cancel()
    await asyncio.gather(launched, return_exceptions=True)
    await asyncio.wait_for(consuming, 10)
    await queue.aclose()


async def test_a_store_and_a_stores_uri_are_one_too_many() -> None:
    store = await open_store("memory://", "x")
    config = ControlPlaneConfig(state_store_uri="memory://")
    with pytest.raises(ConfigurationError, match="both"):
        ControlPlaneServer(LocalMessageQueue(Broker()), state_store=store, config=config)
    await store.aclose()


async def test_an_unknown_store_is_refused_at_the_start() -> None:
    config = ControlPlaneConfig(state_store_uri="nonsense://x", port=free_port())
    server = ControlPlaneServer(LocalMessageQueue(Broker()), config=config)
    with pytest.raises(ConfigurationError, match="state_store_uri"):
        await server.launch_server()
