"""``deploy_core``: queue, control plane and orchestrator in one process, until cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.server import ControlPlaneServer
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.http.exposure import TOKEN
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.config import QueueConfig, SimpleMessageQueueConfig
from llamadeploy.message_queues.registry import queue_from_config
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.orchestrator import SimpleOrchestrator, SimpleOrchestratorConfig


async def deploy_core(
    control_plane_config: ControlPlaneConfig | None = None,
    message_queue_config: QueueConfig | None = None,
    orchestrator_config: SimpleOrchestratorConfig | None = None,
    disable_message_queue: bool = False,
    disable_control_plane: bool = False,
    *,
    token: str | None = None,
    insecure_no_token: bool | None = None,
) -> None:
    """Run the core of a deployment until cancelled; each configuration comes from its environment
    prefix where it is left out.

    Args:
        message_queue_config: the simple queue's is served here; another one is connected to.
        disable_message_queue: connect to the simple queue of another process instead.
        disable_control_plane: serve the simple queue alone.
        token: what clients and services must send; by default ``LLAMA_DEPLOY_TOKEN``, which they
            read too.
        insecure_no_token: listen beyond loopback without a token; by default as
            ``LLAMA_DEPLOY_INSECURE_NO_TOKEN`` says.

    Raises:
        ConfigurationError: a setting is wrong, a port is in use, nothing is left to run, or others
            would be let in without a token.
        UnsupportedFeatureError: the queue or store is not available yet.
        StoreUnavailableError: the state store cannot be reached.
    """
    control_plane_config = control_plane_config or ControlPlaneConfig()
    queue_config = message_queue_config or SimpleMessageQueueConfig()
    token = token or os.environ.get(TOKEN) or None
    serves_queue = isinstance(queue_config, SimpleMessageQueueConfig) and not disable_message_queue
    if disable_control_plane and not serves_queue:
        raise ConfigurationError(
            "nothing to run: the control plane is disabled, and so is the message queue "
            "(or it is one that runs elsewhere)"
        )
    running: list[Callable[[], Coroutine[Any, Any, None]]] = []
    queue: MessageQueue | None = None
    if serves_queue and isinstance(queue_config, SimpleMessageQueueConfig):
        queue_server = SimpleMessageQueueServer(
            queue_config, token=token, insecure_no_token=insecure_no_token
        )
        queue = LocalMessageQueue(queue_server.broker)
        running.append(queue_server.launch_server)
    if not disable_control_plane:
        queue = queue or queue_from_config(queue_config, token=token)
        orchestrator = SimpleOrchestrator.from_config(
            orchestrator_config or SimpleOrchestratorConfig()
        )
        server = ControlPlaneServer(
            queue,
            orchestrator,
            config=control_plane_config,
            token=token,
            insecure_no_token=insecure_no_token,
        )
        server.control_plane.queue_config = queue_config
        running.append(server.launch_server)
    try:
        await _run_together(running)
    finally:
        if queue is not None:
            await queue.aclose()


async def _run_together(servers: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run all of them; when one fails the others are stopped and its error is raised."""
    tasks = [asyncio.create_task(launch()) for launch in servers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        # The last one first: the control plane stops before its queue does.
        for task in reversed(tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(task, return_exceptions=True)
