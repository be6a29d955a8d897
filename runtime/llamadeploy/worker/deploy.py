"""Serve a workflow from one's own Python process, with a control plane that runs elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.exceptions import ConfigurationError, StoreUnavailableError
from llamadeploy.http.exposure import TOKEN
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.registry import QUEUE_TYPES, queue_from_config
from llamadeploy.settings import load_settings
from llamadeploy.worker.backoff import Backoff
from llamadeploy.worker.control_plane_client import ControlPlaneClient, TokenRefused
from llamadeploy.worker.service import WorkflowService
from llamadeploy.worker.service_config import WorkflowServiceConfig

log = logging.getLogger(__name__)


async def deploy_workflow(
    workflow: Any,
    workflow_config: WorkflowServiceConfig,
    control_plane_config: ControlPlaneConfig | None = None,
) -> None:
    """Serve ``workflow`` and register it, until cancelled; it may be started before the control
    plane is. What runs when it is cancelled is handed back.

    Raises:
        ConfigurationError: the control plane refused, its queue cannot be used from here, the
            service's port is in use, or ``workflow`` is no workflow.
    """
    control_plane_config = control_plane_config or ControlPlaneConfig()
    queue = queue_from(await _queue_config(control_plane_config.url))
    service = WorkflowService(
        workflow, queue, workflow_config, control_plane_config=control_plane_config
    )
    try:
        async with asyncio.TaskGroup() as parts:
            # Registered first: its reply has the namespace of the topics.
            await service.register_to_control_plane(control_plane_config.url)
            consume = await service.register_to_message_queue()
            parts.create_task(service.launch_server())
            parts.create_task(_forever(consume))
    except* ConfigurationError as errors:
        raise errors.exceptions[0] from None
    finally:
        await queue.aclose()


def queue_from(config: dict[str, Any]) -> MessageQueue:
    """The adapter for what ``GET /queue_config`` answered: ``{"<class of config>": {...}}``.
    What the answer leaves out (credentials) comes from this process's environment.

    Raises:
        ConfigurationError: unknown, or not available here.
    """
    name, fields = next(iter(config.items()), ("", {}))
    classes = {entry.config.__name__: entry.config for entry in QUEUE_TYPES.values()}
    if name not in classes:
        raise ConfigurationError(f"the control plane's message queue {name!r} is unknown here")
    return queue_from_config(load_settings(classes[name], **fields), token=os.environ.get(TOKEN))


async def _queue_config(url: str) -> dict[str, Any]:
    client = ControlPlaneClient(url, os.environ.get(TOKEN))
    backoff = Backoff(first=0.05, most=2.0)
    try:
        while True:
            try:
                return await client.queue_config()
            except TokenRefused as error:
                raise ConfigurationError(f"{error}; set {TOKEN}") from error
            except StoreUnavailableError as error:
                log.info("waiting for the control plane at %s: %s", url, error)
                await asyncio.sleep(backoff.next())
    finally:
        await client.aclose()


async def _forever(consume: Any) -> None:
    await consume()
