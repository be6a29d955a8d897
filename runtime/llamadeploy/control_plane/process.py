"""``llamadeploy control-plane``: the HTTP API of one deployment as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import click
from pydantic import SecretStr

from llamadeploy.collector import settle_collector
from llamadeploy.control_plane.app import control_plane_app
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.http.exposure import check_exposure
from llamadeploy.http.serving import HttpServer
from llamadeploy.logs import configure_logging
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.config import SimpleMessageQueueConfig
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.message_queues.simple.broker import Broker
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.message_queues.simple.server import SimpleMessageQueueServer
from llamadeploy.settings import HTTP_PORT, QUEUE_PORT, PodSettings
from llamadeploy.state_stores.registry import open_store

log = logging.getLogger(__name__)

ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - in a pod the network policy and the token guard it
MEMORY_URI = "memory://"

DRAIN_SECONDS = 10.0
"""What running requests get at SIGTERM; below a pod's default grace period of 30 s. Long polls and
streams are cut then: their tasks lose nothing, and clients ask again."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str = ALL_INTERFACES
    port: int = HTTP_PORT
    queue_port: int = QUEUE_PORT
    insecure_no_token: bool = False
    """Listen beyond loopback although no token is asked for."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The bound ports; ``queue_port`` is ``None`` where the queue runs elsewhere."""

    port: int
    queue_port: int | None


async def serve(
    settings: PodSettings,
    address: Address,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[Listening], None] | None = None,
) -> None:
    """Run until ``stop`` is set, then drain.

    Raises:
        ConfigurationError: a port, the store's URI or the queue's settings are wrong, or others
            would be let in without a token.
        StoreUnavailableError, QueueUnavailableError: they cannot be reached at the start.
    """
    check_exposure(
        address.host,
        _secret(settings.api_token),
        address.insecure_no_token,
        what="--host",
        cure="set LLAMADEPLOY_API_TOKEN (or add --insecure-no-token)",
    )
    async with AsyncExitStack() as stack:
        store = await open_store(
            _secret(settings.state_store_uri) or MEMORY_URI, settings.namespace
        )
        stack.push_async_callback(store.aclose)
        queue, queue_server = _open_queue(settings, address)
        stack.push_async_callback(queue.aclose)
        control_plane = ControlPlane(
            store,
            queue,
            name=settings.deployment,
            namespace=settings.namespace,
            config=ControlPlaneConfig.without_environment(
                topic_namespace=settings.namespace, port=address.port
            ),
            retention=settings.retention_seconds,
            default_service=settings.default_service,
        )
        if queue_server is not None:
            await queue_server.start()
            stack.push_async_callback(queue_server.stop)
            control_plane.queue_config = SimpleMessageQueueConfig.without_environment(
                host=address.host, port=queue_server.port
            )
        stack.push_async_callback(control_plane.stop)
        await control_plane.start()
        app = control_plane_app(control_plane, token=_secret(settings.api_token))
        server = HttpServer(app, address.host, address.port, setting="the control plane's port")
        await server.start()
        stack.push_async_callback(server.stop, DRAIN_SECONDS)
        log.info("control plane of %s listens on %s", settings.deployment, server.url)
        if on_ready is not None:
            on_ready(Listening(server.port, queue_server.port if queue_server else None))
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


async def _main(settings: PodSettings, address: Address) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.parent_fd is not None:
        # Whoever started us holds the other end: its end, however it came, is ours too.
        loop.add_reader(settings.parent_fd, _parent_ended, loop, settings.parent_fd, stop)
    await serve(settings, address, stop=stop, on_ready=lambda _: settle_collector())


def _parent_ended(loop: asyncio.AbstractEventLoop, fd: int, stop: asyncio.Event) -> None:
    if os.read(fd, 4096):
        return
    loop.remove_reader(fd)
    stop.set()


@click.command("control-plane", short_help="Serve one deployment's API.")
@click.option("--host", default=ALL_INTERFACES, show_default=True, help="Address to listen on.")
@click.option(
    "--insecure-no-token", is_flag=True, help="Allow --host beyond this machine without a token."
)
def control_plane(host: str, insecure_no_token: bool) -> None:
    """Serve one deployment's API (port 8000), and its queue where that is 'simple' (port 8001).

    Everything else is read from LLAMADEPLOY_* variables, such as LLAMADEPLOY_API_TOKEN.
    """
    sys.exit(_run(Address(host, insecure_no_token=insecure_no_token)))


def main() -> None:
    """The console entry: parses the command line."""
    control_plane(prog_name="llamadeploy control-plane")


def _run(address: Address) -> int:
    """Run with the settings of the environment; returns the exit code."""
    import uvloop

    try:
        settings = PodSettings.from_env()
        configure_logging(settings.log_format, settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(settings, address))
    except LlamaDeployError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - for whoever reads the pod's log
        return 1
    return 0
