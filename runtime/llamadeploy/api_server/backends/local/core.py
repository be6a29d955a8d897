"""The core of one deployment inside the API server's process: store, queue, control plane, and
the HTTP servers through which workers and clients reach them."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self
from urllib.parse import quote

from pydantic import SecretStr

from llamadeploy.api_server.backends.local.options import LocalOptions
from llamadeploy.control_plane.app import control_plane_app
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.exceptions import ConfigurationError, StoreError
from llamadeploy.http.serving import HttpServer
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.config import QueueConfig, SimpleMessageQueueConfig
from llamadeploy.message_queues.registry import queue_config, queue_from_config
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.settings import HTTP_PORT, QUEUE_PORT, PodSettings, load_settings
from llamadeploy.spec.deployment import DeploymentSpec
from llamadeploy.spec.queue_address import ADDRESS_FIELDS
from llamadeploy.state_stores.registry import is_shared, open_store

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 2.0
"""What requests to the core get when it stops; workers have drained by then."""


class Core:
    """Store, queue and control plane of one deployment, running; made by :meth:`start`."""

    def __init__(self, spec: DeploymentSpec, namespace: str, options: LocalOptions) -> None:
        self.namespace = namespace
        self._name = spec.name
        self._options = options
        self._stack = AsyncExitStack()
        self.control_plane: ControlPlane
        self.http: HttpServer
        self.queue: HttpServer | None = None
        """Where the simple queue is served; another one runs elsewhere."""
        self._broker: QueueConfig | None = None
        self._shared_store: str | None = None

    @classmethod
    async def start(
        cls,
        spec: DeploymentSpec,
        options: LocalOptions,
        *,
        store_uri: str,
        preferred_ports: tuple[int, int] = (0, 0),
    ) -> Self:
        """Open the store, then serve control plane and queue.

        Args:
            store_uri: the state store's.
            preferred_ports: of control plane and queue, taken where they are free and the file
                names none.

        Raises:
            ConfigurationError: a port is taken, a host is wrong, the store cannot be used so.
            StoreError, QueueError: the store or the message queue cannot be opened.
        """
        namespace = spec.control_plane.topic_namespace or f"llama_deploy.{spec.name}"
        core = cls(spec, namespace, options)
        try:
            await core._start(spec, store_uri, preferred_ports)
        except BaseException:
            await core.stop()
            raise
        return core

    async def _start(self, spec: DeploymentSpec, store_uri: str, ports: tuple[int, int]) -> None:
        store = await open_store(store_uri, self.namespace)
        self._stack.push_async_callback(store.aclose)
        self._shared_store = store_uri if is_shared(store_uri) else None
        queue = await self._open_queue(spec)
        self._stack.push_async_callback(queue.aclose)
        self.control_plane = ControlPlane(
            store,
            queue,
            name=spec.name,
            namespace=self.namespace,
            config=_config(spec, self.namespace),
            default_service=spec.default_service,
            retention=self._options.retention,
        )
        self._stack.push_async_callback(self.control_plane.stop)
        await self.control_plane.start()
        await self._serve_control_plane(spec, ports[0])
        if isinstance(queue, LocalMessageQueue):
            await self._serve_queue(spec, queue.broker, ports[1])
        else:
            self.control_plane.queue_config = self._broker

    async def _open_queue(self, spec: DeploymentSpec) -> MessageQueue:
        if spec.message_queue.type == "simple":
            return LocalMessageQueue(Broker())
        self._broker = queue_config(spec.message_queue.type, **spec.message_queue.options)
        queue = queue_from_config(self._broker)
        try:
            await queue.ping()
        except BaseException:
            await queue.aclose()
            raise
        return queue

    async def _serve_control_plane(self, spec: DeploymentSpec, last_port: int) -> None:
        plane = spec.control_plane
        self.http = await self._listen(
            control_plane_app(self.control_plane, token=self._options.token),
            plane.internal_host or plane.host or LOOPBACK,
            plane.port if plane.internal_port is None else plane.internal_port,
            [each for each in (last_port, HTTP_PORT) if each],
            "control-plane.port",
        )
        self.control_plane.config.port = plane.port or self.http.port

    async def _serve_queue(self, spec: DeploymentSpec, broker: Broker, last_port: int) -> None:
        options = spec.message_queue.options
        self.queue = await self._listen(
            SimpleMessageQueueServer(broker=broker, token=self._options.token).app,
            str(options.get("host") or LOOPBACK),
            options.get("port"),
            [each for each in (last_port, QUEUE_PORT) if each],
            "message-queue.port",
        )
        self.control_plane.queue_config = load_settings(
            SimpleMessageQueueConfig, host=self.queue.host, port=self.queue.port
        )

    async def _listen(
        self, app: Any, host: str, port: int | None, otherwise: Sequence[int], setting: str
    ) -> HttpServer:
        """Serve on ``port``; where the file names none, on the first free one of ``otherwise``,
        else on any."""
        self._check_host(host, setting.replace(".port", ".host"))
        for candidate in otherwise if port is None else ():
            try:
                return await self._bind(HttpServer(app, host, candidate))
            except ConfigurationError:
                continue
        return await self._bind(HttpServer(app, host, port or 0, setting=setting))

    async def _bind(self, server: HttpServer) -> HttpServer:
        await server.start()
        self._stack.push_async_callback(server.stop, STOP_SECONDS)
        return server

    def _check_host(self, host: str, setting: str) -> None:
        if self._options.token or self._options.insecure_no_token or is_loopback(host):
            return
        raise ConfigurationError(
            f"{setting}: '{host}' lets others reach this deployment without a token: "
            "use 127.0.0.1, or start the server with --token (or --insecure-no-token)"
        )

    def worker_settings(self, signing_keys: str) -> PodSettings:
        """What every worker of this deployment is told."""
        token = self._options.token
        return PodSettings(
            deployment=self._name,
            namespace=self.namespace,
            **self._queue_settings(token),
            state_store_uri=SecretStr(self._shared_store) if self._shared_store else None,
            control_plane_url=self.http.url,
            signing_keys=SecretStr(signing_keys),
            api_token=SecretStr(token) if token else None,
            log_format=self._options.log_format,
            log_level=self._options.log_level,
        )

    def _queue_settings(self, token: str | None) -> dict[str, Any]:
        if self._broker is None:
            assert self.queue is not None  # noqa: S101 - served since the start
            return {"queue_url": SecretStr(_with_token(self.queue.url, token))}
        options = self._broker.model_dump(exclude=set(ADDRESS_FIELDS), exclude_none=True)
        return {
            "queue_type": self._broker["type"],
            "queue_url": SecretStr(self._broker["url"]),
            "queue_options": options,
        }

    def queue_status(self) -> dict[str, Any]:
        """Where the message queue is, without credentials."""
        if self._broker is None:
            assert self.queue is not None  # noqa: S101 - served since the start
            return {"type": "simple", "url": self.queue.url, "port": self.queue.port}
        return {"type": self._broker["type"], **self._broker.public()}

    async def worker_lost(self, worker_id: str) -> None:
        """A worker process ended: what it ran goes to another one now."""
        try:
            await self.control_plane.worker_lost(worker_id)
        except StoreError as error:
            # Its leases run out by themselves a little later.
            log.warning("worker %s ended, and the store does not know yet: %s", worker_id, error)

    async def stop(self) -> None:
        """Stop serving and close the store. Idempotent."""
        await self._stack.aclose()


def _config(spec: DeploymentSpec, namespace: str) -> ControlPlaneConfig:
    """What the control plane tells its clients of itself."""
    given = spec.control_plane.model_dump(exclude_none=True, exclude={"state_store_uri"})
    return load_settings(ControlPlaneConfig, **{**given, "topic_namespace": namespace})


def _with_token(url: str, token: str | None) -> str:
    """The queue's URL as its client takes it."""
    return url.replace("://", f"://worker:{quote(token, safe='')}@") if token else url


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
