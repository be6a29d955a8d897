"""``llamadeploy orchestrator``: the loops of one deployment as a process of its own.

Exit codes: 0 told to stop, 1 wrong settings, 2 wrong options.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import click
from pydantic import SecretStr

from llamadeploy.collector import settle_collector
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.orchestration.orchestration import runs_apart
from llamadeploy.pod import Probes, run_process, until_up
from llamadeploy.settings import PodSettings
from llamadeploy.state_stores.registry import open_store

log = logging.getLogger(__name__)

ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - probes and metrics alone, which hold no secrets

EMBEDDED = """\
the orchestrator runs inside the control plane where the message queue is 'simple' or the state \
store is 'memory' or 'sqlite': start `llamadeploy control-plane` (or `llamadeploy api-server`) \
instead, or set LLAMADEPLOY_QUEUE_TYPE to redis or rabbitmq and LLAMADEPLOY_STATE_STORE_URI to a \
redis:// or postgresql:// store"""


async def serve(
    settings: PodSettings,
    stop: asyncio.Event,
    *,
    host: str = ALL_INTERFACES,
    metrics_port: int | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Orchestrate until ``stop`` is set; a store or queue that is away is waited for.

    Args:
        metrics_port: of the probes; 0 for a free one, ``None`` for 9090 or a free one.
        on_ready: called with the bound port of the probes.

    Raises:
        ConfigurationError: a setting or the port is wrong, or there is nothing to share.
    """
    uri = _secret(settings.state_store_uri) or ""
    if not runs_apart(settings.queue_type, uri):
        raise ConfigurationError(EMBEDDED)
    async with AsyncExitStack() as stack:
        probes = Probes(host, metrics_port)
        await probes.start()
        stack.push_async_callback(probes.stop)
        # Nobody follows tasks here.
        opening = partial(open_store, uri, settings.namespace, worker=True)
        store = await until_up(opening, probes, stop)
        if store is None:
            return
        stack.push_async_callback(store.aclose)
        queue = open_queue(settings.queue_type, _secret(settings.queue_url), settings.queue_options)
        stack.push_async_callback(queue.aclose)
        # Its use cases are what messages ask for; nobody calls it over HTTP.
        plane = ControlPlane(
            store,
            queue,
            name=settings.deployment,
            namespace=settings.namespace,
            default_service=settings.default_service,
            retention=settings.retention_seconds,
        )
        stack.push_async_callback(plane.stop)
        await until_up(plane.start, probes, stop)
        probes.ask(plane.problems, plane.metrics)
        log.info("orchestrator of %s works; probes on port %d", settings.deployment, probes.port)
        if on_ready is not None:
            on_ready(probes.port)
        settle_collector()
        await stop.wait()
        log.info("stopping: what it works on goes to others")


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value is not None else None


@click.command("orchestrator", short_help="Do what follows from tasks of one deployment.")
@click.option("--host", default=ALL_INTERFACES, show_default=True, help="Address of the probes.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Port of the probes and metrics [default: 9090, or a free one where that is taken].",
)
def orchestrator(host: str, metrics_port: int | None) -> None:
    """Drain the outbox, take back lost tasks, act on messages, and forget what is old.

    For a shared message queue and state store, as LLAMADEPLOY_* variables say; any number of
    orchestrators share the work of one deployment.
    """
    sys.exit(run_process(partial(serve, host=host, metrics_port=metrics_port)))


def main() -> None:
    """The console entry: parses the command line."""
    orchestrator(prog_name="llamadeploy orchestrator")
