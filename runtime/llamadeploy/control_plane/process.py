"""``llamadeploy control-plane``: the HTTP API of one deployment as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import click
from pydantic import SecretStr

from llamadeploy.collector import settle_collector
from llamadeploy.control_plane.app import control_plane_app
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.http.exposure import check_exposure
from llamadeploy.http.serving import HttpServer
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.orchestration.orchestration import runs_apart
from llamadeploy.pod import Probes, run_process, until_up
from llamadeploy.settings import HTTP_PORT, QUEUE_PORT, PodSettings
from llamadeploy.state_stores.registry import open_store

log = logging.getLogger(__name__)

ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - in a pod the network policy and the token guard it
MEMORY_URI = "memory://"
PORT = click.IntRange(0, 65535)

DRAIN_SECONDS = 10.0
"""What running requests get at SIGTERM; below a pod's default grace period of 30 s. Long polls and
streams are cut then: their tasks lose nothing, and clients ask again."""

LEAVE_SECONDS = 2.0
"""Before that: how long clients get to leave their connections with a reply."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str = ALL_INTERFACES
    port: int = HTTP_PORT
    queue_port: int = QUEUE_PORT
    metrics_port: int | None = None
    """Of the probes; ``None`` for 9090, or a free one where that is taken."""
    insecure_no_token: bool = False
    """Listen beyond loopback although no token is asked for."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The bound ports; ``queue_port`` is ``None`` where the queue runs elsewhere."""

    port: int
    queue_port: int | None
    metrics_port: int


async def serve(
    settings: PodSettings,
    address: Address,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[Listening], None] | None = None,
    orchestrates: bool = False,
) -> None:
    """Run until ``stop`` is set, then drain; a store that is away at the start is waited for.

    Args:
        orchestrates: do the orchestrator's work too, although queue and store are shared; where
            they are not it is always done here.

    Raises:
        ConfigurationError: a port, the store's URI or the queue's settings are wrong, or others
            would be let in without a token.
    """
    check_exposure(
        address.host,
        _secret(settings.api_token),
        address.insecure_no_token,
        what="--host",
        cure="set LLAMADEPLOY_API_TOKEN (or add --insecure-no-token)",
    )
    uri = _secret(settings.state_store_uri) or MEMORY_URI
    async with AsyncExitStack() as stack:
        probes = Probes(address.host, address.metrics_port)
        await probes.start()
        stack.push_async_callback(probes.stop)
        store = await until_up(lambda: open_store(uri, settings.namespace), probes, stop)
        if store is None:
            return
        stack.push_async_callback(store.aclose)
        queue, queue_server = _open_queue(settings, address)
        stack.push_async_callback(queue.aclose)
        control_plane = ControlPlane(
            store,
            queue,
            name=settings.deployment,
            namespace=settings.namespace,
            config=ControlPlaneConfig.without_environment(
                topic_namespace=settings.namespace,
                port=address.port,
                cors_origins=settings.cors_origins,
            ),
            retention=settings.retention_seconds,
            default_service=settings.default_service,
            orchestrates=orchestrates or not runs_apart(settings.queue_type, uri),
        )
        as_config = getattr(queue, "as_config", None)
        if as_config is not None:
            control_plane.queue_config = as_config()
        if queue_server is not None:
            await queue_server.start()
            stack.push_async_callback(queue_server.stop)
            control_plane.queue_config = SimpleMessageQueueConfig.without_environment(
                host=address.host, port=queue_server.port
            )
        stack.push_async_callback(control_plane.stop)
        await until_up(control_plane.start, probes, stop)
        probes.ask(control_plane.obstacles, control_plane.metrics, control_plane.queue_trouble)
        app = control_plane_app(control_plane, token=_secret(settings.api_token))
        server = HttpServer(app, address.host, address.port, setting="the control plane's port")
        await server.start()
        stack.push_async_callback(server.stop, DRAIN_SECONDS, leave=LEAVE_SECONDS)
        log.info("control plane of %s listens on %s", settings.deployment, server.url)
        if on_ready is not None:
            queue_port = queue_server.port if queue_server else None
            on_ready(Listening(server.port, queue_port, probes.port))
        await stop.wait()
        log.info("stopping: requests that run are finished first")


def _open_queue(
    settings: PodSettings, address: Address
) -> tuple[MessageQueue, SimpleMessageQueueServer | None]:
    if settings.queue_type != "simple":
        return open_queue(
            settings.queue_type, _secret(settings.queue_url), settings.queue_options
        ), None
    broker = Broker()
    config = SimpleMessageQueueConfig.without_environment(
        host=address.host, port=address.queue_port
    )
    server = SimpleMessageQueueServer(config, broker, token=_secret(settings.api_token))
    return LocalMessageQueue(broker), server


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value is not None else None


async def _main(
    address: Address, orchestrates: bool, settings: PodSettings, stop: asyncio.Event
) -> None:
    await serve(
        settings,
        address,
        stop=stop,
        on_ready=lambda _: settle_collector(),
        orchestrates=orchestrates,
    )


@click.command("control-plane", short_help="Serve one deployment's API.")
@click.option("--host", default=ALL_INTERFACES, show_default=True, help="Address to listen on.")
@click.option(
    "--insecure-no-token", is_flag=True, help="Allow --host beyond this machine without a token."
)
@click.option("--port", type=PORT, default=HTTP_PORT, show_default=True, help="Port of the API.")
@click.option(
    "--queue-port", type=PORT, default=QUEUE_PORT, show_default=True, help="Port of the queue."
)
@click.option(
    "--metrics-port",
    type=PORT,
    help="Port of the probes and metrics [default: 9090, or a free one where that is taken].",
)
@click.option(
    "--with-orchestrator",
    is_flag=True,
    help="Do the orchestrator's work too, although message queue and state store are shared.",
)
def control_plane(
    host: str,
    insecure_no_token: bool,
    port: int,
    queue_port: int,
    metrics_port: int | None,
    with_orchestrator: bool,
) -> None:
    """Serve one deployment's API, and its queue where that is 'simple'.

    Everything else is read from LLAMADEPLOY_* variables, such as LLAMADEPLOY_API_TOKEN. With a
    shared message queue and state store start `llamadeploy orchestrator` as well.
    """
    address = Address(host, port, queue_port, metrics_port, insecure_no_token)
    sys.exit(run_process(partial(_main, address, with_orchestrator)))


def main() -> None:
    """The console entry: parses the command line."""
    control_plane(prog_name="llamadeploy control-plane")
