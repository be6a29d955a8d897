"""``ControlPlaneServer``: a control plane for manual orchestration, as in LlamaDeploy 0.8.1."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from llamadeploy.control_plane.app import control_plane_app
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.control_plane.deferred import DeferredStore
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.http.exposure import MANUAL_CURE, check_exposure, insecure_by_environment
from llamadeploy.http.serving import HttpServer
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.messages import QueueMessage, topic_name
from llamadeploy.orchestration.outbox import PublishCallback
from llamadeploy.orchestrator import BaseOrchestrator
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.registry import open_store
from llamadeploy.types import TaskResult

__all__ = ["ControlPlaneServer", "control_plane_app"]

log = logging.getLogger(__name__)

MEMORY_URI = "memory://"
DEPLOYMENT_NAME = "default"
"""What the deployment is called under ``/deployments/`` where nobody has named it."""


class ControlPlaneServer:
    """A control plane with its HTTP server.

    Args:
        message_queue: where tasks are published; closed by whoever made it.
        orchestrator: decides where tasks go; by default to the service they name.
        publish_callback: awaited with each message about a task after the queue has it.
        state_store: an open store (closed by whoever opened it); by default the one of
            ``config.state_store_uri``, else one in memory.
        config: read from ``CONTROL_PLANE_*`` by default.
        name: the deployment's name on the ``/deployments/`` routes.
        default_service: where tasks go that name no service.
        token: what requests must carry; ``None`` lets everybody in.
        insecure_no_token: listen beyond loopback although there is no token; by default as
            ``LLAMA_DEPLOY_INSECURE_NO_TOKEN`` says.

    Raises:
        ConfigurationError: both a store and a store's URI were given.
    """

    def __init__(
        self,
        message_queue: MessageQueue,
        orchestrator: BaseOrchestrator | None = None,
        publish_callback: PublishCallback | None = None,
        state_store: StateStore | None = None,
        config: ControlPlaneConfig | None = None,
        *,
        name: str = DEPLOYMENT_NAME,
        default_service: str | None = None,
        token: str | None = None,
        insecure_no_token: bool | None = None,
    ) -> None:
        self._token = token
        self._insecure = insecure_no_token
        self._config = config or ControlPlaneConfig()
        if state_store is not None and self._config.state_store_uri is not None:
            raise ConfigurationError(
                "state_store and config.state_store_uri are both set: use one of them"
            )
        uri = self._config.state_store_uri or MEMORY_URI
        namespace = self._config.topic_namespace
        self._own_store = DeferredStore(lambda: open_store(uri, namespace))
        self._uses_own_store = state_store is None
        self._message_queue = message_queue
        self._publish_callback = publish_callback
        self.control_plane = ControlPlane(
            state_store or self._own_store.as_store(),
            message_queue,
            name=name,
            namespace=namespace,
            orchestrator=orchestrator,
            config=self._config,
            default_service=default_service,
            on_publish=publish_callback,
        )
        as_config = getattr(message_queue, "as_config", None)
        if as_config is not None:
            self.control_plane.queue_config = as_config()
        self._started = False
        self._stopped = asyncio.Event()
        self.app = control_plane_app(self.control_plane, token=token, lifespan=self._lifespan)

    @property
    def message_queue(self) -> MessageQueue:
        """The queue it was made with."""
        return self._message_queue

    @property
    def publisher_id(self) -> str:
        """Who messages of this control plane come from."""
        return self.control_plane.publisher_id

    @property
    def publish_callback(self) -> PublishCallback | None:
        """The callback it was made with."""
        return self._publish_callback

    async def start(self) -> None:
        """Open the store and begin to work, without serving HTTP. Idempotent.

        Raises:
            ConfigurationError: the store's URI is wrong.
            StoreUnavailableError: the store cannot be reached.
        """
        if self._started:
            return
        self._started = True
        self._stopped.clear()
        if self._uses_own_store:
            await self._own_store.open()
        await self.control_plane.start()

    async def stop(self) -> None:
        """Stop working and close the store it opened. Idempotent."""
        if not self._started:
            return
        self._started = False
        await self.control_plane.stop()
        await self._own_store.aclose()
        self._stopped.set()

    async def launch_server(self) -> None:
        """Serve HTTP until cancelled.

        Raises:
            ConfigurationError: the port is in use, host or store are wrong, or others would be
                let in without a token.
        """
        check_exposure(
            self._config.bind_host,
            self._token,
            insecure_by_environment() if self._insecure is None else self._insecure,
            what="ControlPlaneConfig.host (CONTROL_PLANE_HOST)",
            cure=MANUAL_CURE,
        )
        await self.start()
        server = HttpServer(
            self.app,
            self._config.bind_host,
            self._config.bind_port,
            setting="ControlPlaneConfig.port (CONTROL_PLANE_PORT)",
        )
        try:
            await server.start()
            log.info("the control plane listens on %s", server.url)
            await server.wait()
        finally:
            await server.stop()
            await self.stop()

    async def register_to_message_queue(self) -> Callable[[], Awaitable[None]]:
        """Begin to consume the control plane's topic.

        Returns:
            what 0.8.1's callers then run as a task: it ends when the control plane does.
        """
        await self.start()

        async def consume() -> None:
            await self._stopped.wait()

        return consume

    async def process_message(self, message: QueueMessage) -> None:
        """Act on a message to the control plane; see :meth:`ControlPlane.process_message`."""
        await self.control_plane.process_message(message)

    async def handle_service_completion(self, task_result: TaskResult) -> None:
        """Take the result of a service. Raises NotFoundError for an unknown task."""
        await self.control_plane.complete(task_result)

    def get_topic(self, msg_type: str) -> str:
        """The topic of a service, or of ``control_plane``."""
        return topic_name(self._config.topic_namespace, msg_type)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        await self.start()
        yield
        await self.stop()
