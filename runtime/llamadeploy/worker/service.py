"""A workflow as a service in one's own Python process ("manual orchestration")."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.http.exposure import MANUAL_CURE, TOKEN, check_exposure, insecure_by_environment
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.registry import queue_from_config
from llamadeploy.messages import ActionTypes, QueueMessage, QueueMessageStats, topic_name
from llamadeploy.settings import variable
from llamadeploy.signing import KeyRing
from llamadeploy.types import ServiceDefinition, generate_id
from llamadeploy.worker.control_plane_client import ControlPlaneClient
from llamadeploy.worker.in_process import InProcessWorker, WorkerPlan
from llamadeploy.worker.service_config import WorkflowServiceConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

PublishCallback = Callable[[QueueMessage], Any] | Callable[[QueueMessage], Awaitable[Any]]

SIGNING_KEYS = variable("signing_keys")


class WorkflowService:
    """Serves one workflow; the parts of a service are run one by one, or all by
    :func:`llamadeploy.deploy.deploy_workflow`.

    Args:
        workflow: a ``workflows.Workflow``.
        message_queue: an adapter made from a config, such as ``SimpleMessageQueue(config)``. The
            service publishes with it, and consumes with another one of the same config.
        publish_callback: called with each message that :meth:`publish` has published.
        control_plane_config: where the control plane is, until it is registered with one.
        token: the deployment's API token; by default from ``LLAMA_DEPLOY_TOKEN``.
        keyring: signs the contexts of sessions, the same one for all replicas of the service; by
            default from ``LLAMADEPLOY_SIGNING_KEYS``, else made for this process alone.
    """

    def __init__(
        self,
        workflow: Any,
        message_queue: MessageQueue,
        config: WorkflowServiceConfig,
        publish_callback: PublishCallback | None = None,
        *,
        control_plane_config: ControlPlaneConfig | None = None,
        token: str | None = None,
        keyring: KeyRing | None = None,
    ) -> None:
        self.workflow = workflow
        self.config = config
        self._message_queue = message_queue
        self._publish_callback = publish_callback
        self._publisher_id = f"{type(self).__qualname__}-{generate_id()}"
        self._control_plane = control_plane_config or ControlPlaneConfig()
        self._control_plane_url = self._control_plane.url
        self._token = token or os.environ.get(TOKEN)
        self._keyring = keyring
        self._port = config.port
        self._worker: InProcessWorker | None = None
        self._worker_started = asyncio.Event()

    # -- what it is ----------------------------------------------------------------------------
    @property
    def service_name(self) -> str:
        """The name on the wire."""
        return self.config.service_name

    @property
    def service_definition(self) -> ServiceDefinition:
        """What is registered with the control plane."""
        return ServiceDefinition(
            service_name=self.service_name,
            description=self.config.description,
            host=self.config.host,
            port=self._port,
            options=self.config.options,
        )

    @property
    def message_queue(self) -> MessageQueue:
        """The adapter it publishes with."""
        return self._message_queue

    @property
    def publisher_id(self) -> str:
        """What it names itself in messages."""
        return self._publisher_id

    @property
    def publish_callback(self) -> PublishCallback | None:
        """Called after each publish."""
        return self._publish_callback

    def get_topic(self, msg_type: str) -> str:
        """The topic of a service, or of ``control_plane``, in this deployment."""
        return topic_name(self._control_plane.topic_namespace, msg_type)

    # -- registration --------------------------------------------------------------------------
    async def register_to_control_plane(self, control_plane_url: str) -> None:
        """Register, waiting for the control plane where it is still starting.

        Raises:
            ConfigurationError: the control plane refused.
        """
        client = ControlPlaneClient(control_plane_url, self._token)
        try:
            reply = await client.register_when_up(self.service_definition)
        finally:
            await client.aclose()
        self._control_plane_url = control_plane_url
        namespace = reply.get("topic_namespace", self._control_plane.topic_namespace)
        self._control_plane = self._control_plane.model_copy(update={"topic_namespace": namespace})

    async def deregister_from_control_plane(self) -> None:
        """Take no more tasks from it; idempotent.

        Raises:
            StoreUnavailableError: the control plane cannot be reached.
        """
        client = ControlPlaneClient(self._control_plane_url, self._token)
        try:
            await client.deregister(self.service_name)
        finally:
            await client.aclose()

    async def register_to_message_queue(self) -> Callable[[], Awaitable[None]]:
        """Returns what consumes the service's topic until it is cancelled; it works while
        :meth:`processing_loop` (or :meth:`launch_server`) runs."""
        return self._consume

    async def deregister_from_message_queue(self) -> None:
        """Take no more messages; what runs goes on. Idempotent."""
        if self._worker is not None:
            await self._worker.stop_consuming()

    async def _consume(self) -> None:
        await self._worker_started.wait()
        assert self._worker is not None  # noqa: S101 - set before the event
        worker = self._worker
        await worker.start_consuming()
        try:
            await asyncio.Event().wait()
        finally:
            if self._worker is worker:
                await worker.stop_consuming()

    # -- work ----------------------------------------------------------------------------------
    async def processing_loop(self) -> None:
        """Run tasks, up to ``max_concurrent_tasks`` at a time, until cancelled. What runs then is
        handed back, for another replica or the next start.

        Raises:
            ConfigurationError: the workflow or the queue cannot be served.
        """
        if self._worker is not None:
            raise ConfigurationError(f"service {self.service_name!r} is being processed already")
        self._worker = InProcessWorker(self._plan(), consume=False)
        self._worker_started.set()
        try:
            await self._worker.run()
        finally:
            self._worker_started.clear()
            self._worker = None

    async def process_message(self, message: QueueMessage) -> None:
        """Work on a message that was not taken from the queue; returns once it is accepted.

        Raises:
            ConfigurationError: its action is not ``new_task``, or nothing processes messages.
        """
        if message.action is not ActionTypes.NEW_TASK:
            raise ConfigurationError(
                f"Unhandled action: {message.action}; a service takes new_task (events and "
                "cancels go to the control plane)"
            )
        if self._worker is None:
            raise ConfigurationError(
                f"service {self.service_name!r} does not run: start processing_loop() or "
                "launch_server() first"
            )
        await self._worker.submit(message)

    async def publish(self, message: QueueMessage, **kwargs: Any) -> None:
        """Publish to the service (or ``control_plane``) that ``message.type`` names; ``kwargs`` go
        to the callback.

        Raises:
            QueueUnavailableError: the queue has not accepted it.
        """
        message.publisher_id = self.publisher_id
        message.stats.publish_time = QueueMessageStats.timestamp_str()
        await self._message_queue.publish(self.get_topic(message.type), message)
        if self._publish_callback is not None:
            called = self._publish_callback(message, **kwargs)
            if inspect.isawaitable(called):
                await called

    def _plan(self) -> WorkerPlan:
        return WorkerPlan(
            workflow=self.workflow,
            code_version=_code_version(self.workflow),
            open_queue=lambda: _another(self._message_queue, self._token),
            control_plane_url=self._control_plane_url,
            token=self._token,
            keyring=self._keyring or _default_keyring(),
            service=self.service_name,
            namespace=self._control_plane.topic_namespace,
            max_concurrent_tasks=self.config.max_concurrent_tasks,
            timeout=self.config.timeout,
        )

    # -- server --------------------------------------------------------------------------------
    async def home(self) -> dict[str, str]:
        """What ``GET /`` tells."""
        return {
            "service_name": self.service_name,
            "description": self.config.description,
            "running": str(self._worker is not None),
            "step_interval": str(self.config.step_interval),
            "num_outstanding_calls": str(self._worker.in_flight if self._worker else 0),
            "type": "workflow_service",
        }

    async def launch_server(self) -> None:
        """Serve ``GET /`` and ``POST /process_message``, and process, until cancelled.

        Raises:
            ConfigurationError: the port is in use, the workflow cannot be served, or others would
                be let in without a token.
        """
        from llamadeploy.http.serving import HttpServer

        host = self.config.internal_host or self.config.host
        check_exposure(
            host,
            self._token,
            insecure_by_environment(),
            what="WorkflowServiceConfig(host=...)",
            cure=MANUAL_CURE,
        )
        port = self.config.internal_port
        server = HttpServer(
            self._app(),
            host,
            self.config.port if port is None else port,
            setting="WorkflowServiceConfig(port=...)",
        )
        async with server:
            if self.config.port == 0:
                self._port = server.port
            await self.processing_loop()

    def _app(self) -> FastAPI:
        from fastapi import FastAPI

        from llamadeploy.control_plane.routes.auth import TokenMiddleware
        from llamadeploy.control_plane.routes.errors import install_error_handlers
        from llamadeploy.control_plane.routes.limits import BodyLimitMiddleware
        from llamadeploy.http.protection import ProtectionMiddleware

        app = FastAPI(title=self.service_name)
        install_error_handlers(app)
        app.add_middleware(BodyLimitMiddleware)
        if self._token:
            app.add_middleware(TokenMiddleware, token=self._token)
        app.add_middleware(ProtectionMiddleware, token=bool(self._token))
        app.add_api_route("/", self.home, methods=["GET"], tags=["Workflow Service"])
        app.add_api_route(
            "/process_message",
            self.process_message,
            methods=["POST"],
            tags=["Message Processing"],
        )
        return app


def _another(queue: MessageQueue, token: str | None) -> MessageQueue:
    """An adapter like ``queue``, for another loop."""
    as_config = getattr(queue, "as_config", None)
    if as_config is None:
        raise ConfigurationError(
            f"message_queue is a {type(queue).__name__}, which has no config: use an adapter "
            "made from one, such as SimpleMessageQueue(SimpleMessageQueueConfig())"
        )
    return queue_from_config(as_config(), token=token)


def _default_keyring() -> KeyRing:
    text = os.environ.get(SIGNING_KEYS)
    if text:
        return KeyRing.parse(text)
    log.warning(
        "%s is not set: the contexts of sessions can be read by this process alone", SIGNING_KEYS
    )
    return KeyRing.generate()


def _code_version(workflow: Any) -> str:
    """Changes with the source of the workflow's class, where that can be had."""
    try:
        source = inspect.getsource(type(workflow))
    except (OSError, TypeError):
        source = repr(type(workflow))
    return hashlib.sha256(source.encode()).hexdigest()[:16]
