"""``llamadeploy-operator``: the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Any

import click
import kopf

from llamadeploy.logs import configure_logging
from llamadeploy_operator import __version__, metrics
from llamadeploy_operator.cluster.addresses import Addresses
from llamadeploy_operator.cluster.api import Api, ApiError, NotLeading, connect, own_namespace
from llamadeploy_operator.cluster.autoscaler import Autoscaler
from llamadeploy_operator.cluster.cache import Cache
from llamadeploy_operator.cluster.control_planes import HttpControlPlanes
from llamadeploy_operator.cluster.discovery import LOOK_SECONDS, Discovery
from llamadeploy_operator.cluster.drains import Drains
from llamadeploy_operator.cluster.events import Recorder
from llamadeploy_operator.cluster.kinds import (
    APPLIED,
    DEPLOYMENT,
    METADATA_ONLY,
    POD,
    POD_MONITOR,
    VOLUME_CLAIM,
    WORKFLOW_SERVICE,
    Kind,
)
from llamadeploy_operator.cluster.metadata_watch import MetadataWatch
from llamadeploy_operator.cluster.scale_in import ScaleIn
from llamadeploy_operator.cluster.service_loads import ServiceLoads
from llamadeploy_operator.cluster.sink import Sink
from llamadeploy_operator.gather import Gatherer
from llamadeploy_operator.handlers import events, login, watching
from llamadeploy_operator.health import HealthServer, Watch, Watchdog
from llamadeploy_operator.leader import Elector, LeadershipLost, LeaseName
from llamadeploy_operator.names import MANAGED_BY_LABEL, MANAGER
from llamadeploy_operator.queue import ReconcileQueue
from llamadeploy_operator.reconcile import Reconciler
from llamadeploy_operator.routing import Key, Routes
from llamadeploy_operator.settings import ENV_PREFIX, OPTIONS, OperatorSettings, from_options
from llamadeploy_operator.watch_limits import watch_limits

logger = logging.getLogger("llamadeploy_operator")

#: Seconds for which a child's changes are gathered.
CHILD_DELAY = 0.1

#: What our children have.
OURS = f"{MANAGED_BY_LABEL}={MANAGER}"

#: Watched in full, all but the custom resources by our label.
WATCHED = (DEPLOYMENT, *APPLIED, POD, VOLUME_CLAIM)


class Operator:
    """The parts of the process, put together."""

    def __init__(self, settings: OperatorSettings, api: Api) -> None:
        self.settings = settings
        self.api = api
        self.cache = Cache()
        self.limits = watch_limits(settings.watch_seconds)
        self.watchdog = Watchdog(limits=self.limits)
        self.routes = Routes(self.cache)
        recorder = Recorder(api, settings.identity)
        template = settings.control_plane_url_template
        addresses = Addresses(api, self.cache, settings.defaults, template)
        loads = ServiceLoads()
        self.autoscaler = Autoscaler(api, self.cache, addresses, loads, recorder, self._scaled)
        self.discovery = Discovery(
            api,
            self.cache,
            settings.scopes,
            self._watcher,
            self.watchdog,
            self._discovered,
            min(LOOK_SECONDS, max(1.0, settings.resync_seconds)),
        )
        gatherer = Gatherer(
            api,
            self.cache,
            settings.defaults,
            self.discovery.capabilities,
            self.autoscaler.scaled,
        )
        reconciler = Reconciler(
            api,
            self.cache,
            self.routes,
            gatherer,
            recorder,
            Drains(api, self.cache, HttpControlPlanes(), addresses, settings.drain_seconds),
            self.autoscaler,
            ScaleIn(api, self.cache, addresses, loads),
            settings.resync_seconds,
        )
        self.queue: ReconcileQueue[Key] = ReconcileQueue(
            reconciler, concurrency=settings.concurrency, expected=(ApiError,)
        )
        self.sink = Sink(self.cache, self.watchdog, self.changed)

    def changed(self, kind: Kind, body: dict[str, Any]) -> None:
        """Something was seen to change: reconcile whom it concerns."""
        for key, urgent in self.routes.of(kind, body):
            # Children change several times in a row, mostly by their controllers' hands.
            delay = 0.0 if urgent else CHILD_DELAY
            self.queue.add(key, delay, patient=not urgent, spaced=not urgent)

    def _scaled(self, namespace: str, name: str) -> None:
        self.queue.add(Key("WorkflowService", namespace, name))

    async def run(self, stop: asyncio.Event, *others: asyncio.Task[None]) -> None:
        """Watch and reconcile until ``stop``.

        Raises:
            BaseException: whatever ends one of the parts, or one of the ``others``.
        """
        scopes = self.settings.scopes
        for kind in (*WATCHED, *METADATA_ONLY):
            for namespace in scopes:
                self.watchdog.expect(Watch(kind.resource, namespace or ""))
        parts = [
            self._kopf(stop),
            *(self._watch(kind, scope) for kind in METADATA_ONLY for scope in scopes),
        ]
        watches = [asyncio.create_task(part) for part in parts]
        work = asyncio.create_task(self._reconcile(), name="reconcile")
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait(
            {*watches, *others, work, stopped}, return_when=asyncio.FIRST_COMPLETED
        )
        # Nothing is written any more once this returns. The watches end with the process: kopf
        # would wait for seconds for tasks that are not its own.
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        for task in done - {stopped}:
            task.result()
            raise RuntimeError(f"{task.get_name()} has ended by itself")

    async def _watch(self, kind: Kind, scope: str | None) -> None:
        await self._watcher(kind, scope).run()

    def _watcher(self, kind: Kind, scope: str | None) -> MetadataWatch:
        selector = OURS if kind == POD_MONITOR else ""
        return MetadataWatch(self.api, kind, scope, self.sink, self.changed, self.limits, selector)

    def _discovered(self) -> None:
        for kind in (DEPLOYMENT, WORKFLOW_SERVICE):
            for key in self.cache.keys(kind):
                self.queue.add(Key(kind.kind, key.namespace, key.name), patient=True)

    async def _reconcile(self) -> None:
        # Before every watch has listed, children that exist would look as if they were missing.
        await self.watchdog.wait_listed()
        logger.info("all watches have listed: %d objects", len(self.cache))
        async with asyncio.TaskGroup() as group:
            await self.discovery.look()
            group.create_task(self.discovery.run(), name="discovery")
            group.create_task(self.autoscaler.run(), name="autoscaler")
            group.create_task(self.queue.run(), name="queue")

    async def _kopf(self, stop: asyncio.Event) -> None:
        watching.install(self.sink, list(WATCHED), self.limits)
        registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
        events.configure(settings, list(WATCHED), self.limits.request)
        events.register(registry, list(WATCHED), self.changed)
        login.register(registry, self.api)
        ready = asyncio.Event()
        take_over = asyncio.create_task(_signals_after(ready, stop))
        try:
            await kopf.operator(
                registry=registry,
                settings=settings,
                standalone=True,
                clusterwide=not self.settings.namespaces,
                namespaces=self.settings.namespaces,
                ready_flag=ready,
            )
        finally:
            take_over.cancel()


async def _signals_after(ready: asyncio.Event, stop: asyncio.Event) -> None:
    """kopf installs signal handlers of its own when it starts; ours come back after that."""
    await ready.wait()
    stop_on_signals(stop)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set ``stop``."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def operate(settings: OperatorSettings) -> int:
    """Run the operator until a signal; gives the exit code."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    api, lease_api = await connect(), await connect(pool=2)
    lease = LeaseName(settings.lease_namespace, settings.lease_name, settings.identity)
    elector = Elector(lease_api, lease) if settings.leader_election else None
    if elector is not None:
        api.may_write = elector.leading
    operator = Operator(settings, api)
    server = HealthServer(operator.watchdog, operator.queue.depth)
    await server.start(settings.http_host, settings.http_port)
    logger.info("llamadeploy-operator %s, health on port %d", __version__, server.port)
    code = 0
    try:
        if elector is not None and not await _acquired(elector, stop):
            return 0
        metrics.LEADER.set(1)
        await _work(operator, elector, stop)
    except (LeadershipLost, NotLeading, BaseExceptionGroup) as error:
        logger.error("stopped: %s", _first(error))
        code = 3
    except Exception:
        logger.exception("stopped by an error")
        code = 1
    finally:
        metrics.LEADER.set(0)
        if elector is not None:
            await elector.release()
        await server.stop()
        await api.aclose()
        await lease_api.aclose()
    return code


async def _work(operator: Operator, elector: Elector | None, stop: asyncio.Event) -> None:
    others = [asyncio.create_task(elector.hold(), name="lease")] if elector else []
    try:
        await operator.run(stop, *others)
    finally:
        for task in others:
            task.cancel()


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _acquired(elector: Elector, stop: asyncio.Event) -> bool:
    """Whether we lead, before somebody stops us."""
    acquire, stopped = asyncio.ensure_future(elector.acquire()), asyncio.ensure_future(stop.wait())
    done, pending = await asyncio.wait((acquire, stopped), return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return acquire in done and acquire.result() is None


async def _operate_and_exit(settings: OperatorSettings) -> None:
    code = await operate(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: nothing that hangs in a task or a thread may keep a former leader alive.
    os._exit(code)


def _options(command: Any) -> Any:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(
    context_settings={"auto_envvar_prefix": ENV_PREFIX, "max_content_width": 100},
    epilog="Every flag can be given in the environment. The cluster is the one that the pod runs "
    "in, or that KUBECONFIG names.",
)
@click.version_option(__version__)
@_options
def main(**options: Any) -> None:
    """Run LlamaDeploy's Kubernetes operator.

    It makes the pods, Services and so on of the custom resources Deployment (ldep) and
    WorkflowService (wfs), and keeps them so. Run two replicas: one works, the other takes over
    within 20 seconds.
    """
    settings = from_options(options, pod_namespace=own_namespace())
    configure_logging(settings.log_format, settings.log_level)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    asyncio.run(_operate_and_exit(settings))


if __name__ == "__main__":
    main()
