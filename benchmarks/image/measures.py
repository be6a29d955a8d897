"""One component after the other: from its start until it is ready, then its memory."""

from __future__ import annotations

import http.client
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.brokers.backends import rabbitmq_and_postgresql, redis
from benchmarks.image.installation import Installation
from benchmarks.machine import cpu_seconds
from e2e.cluster.build import BuildUnavailableError, cluster_binary
from e2e.cluster.control_plane import ControlPlane
from e2e.operator_process import OperatorProcess
from llamadeploy.testing import HOST, Cluster, Process, free_port

ROOT = Path(__file__).parents[2]
TOKEN = "measured"
READY_SECONDS = 60.0
WORKFLOW = (ROOT / "benchmarks" / "source" / "src" / "workflow.py").read_text()


@dataclass
class Figure:
    """A component with a queue and a store.

    Attributes:
        start: seconds from the process's start until it is ready, the middle one of several.
        cpu: seconds of CPU that it used until then.
        memory: resident MiB when it had been ready and idle for a while.
    """

    component: str
    backend: str
    start: float
    cpu: float
    memory: float

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def resident(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def backends() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and the Cluster's arguments, the servers running meanwhile."""
    yield "simple", {"queue_type": "simple"}
    with redis() as pair:
        url = pair.queue_url
        yield "Redis", {
            "queue_type": "redis", "queue_url": url, "state_store_uri": url,
            "queue_options": {"exclusive_mode": True},
        }  # fmt: skip
    with rabbitmq_and_postgresql() as pair:
        yield (
            "RabbitMQ + PostgreSQL",
            {
                "queue_type": "rabbitmq",
                "queue_url": pair.queue_url,
                "state_store_uri": pair.backend.store,
            },
        )


def measure(
    installation: Installation, starts: int, idle: float, report: Callable[[str], None]
) -> Iterator[Figure]:
    """Every component with every backend, the operator last where it can be had."""
    for name, arguments in backends():
        with _cluster(installation, dict(arguments)) as cluster:
            times = {}
            for component, process in _components(cluster).items():
                report(f"{component}, {name} ...")
                times[component] = _starts(process, process.metrics_port, starts)
            time.sleep(idle)  # what is measured: nobody asks for anything meanwhile
            for component, process in _components(cluster).items():
                yield Figure(component, name, *times[component], resident(process.pid))
    try:
        yield from _operator(installation, starts, idle, report)
    except BuildUnavailableError as error:
        report(f"without the operator: {error}")


def _components(cluster: Cluster) -> dict[str, Process]:
    """In the order in which they need each other."""
    found = {"control plane": cluster.control_planes[0]}
    if cluster.orchestrators:
        found["orchestrator"] = cluster.orchestrators[0]
    return found | {"worker": cluster.workers["echo"][0]}


@contextmanager
def _cluster(installation: Installation, arguments: dict[str, Any]) -> Iterator[Cluster]:
    """Its processes, none of them started."""
    with tempfile.TemporaryDirectory(prefix="benchmark-image-") as path:
        folder = Path(path)
        if arguments["queue_type"] == "simple":
            port = free_port()
            arguments |= {
                "queue_url": f"http://worker:{TOKEN}@{HOST}:{port}",
                "api_token": TOKEN,
                "queue_port": port,
                "orchestrators": 0,
                "state_store_uri": f"sqlite:///{folder}/state.db",
            }
        cluster = Cluster(
            folder, WORKFLOW, services={"echo": {}}, python=installation.python,
            env=installation.env, **arguments,
        )  # fmt: skip
        try:
            installation.show(folder)
            yield cluster
        finally:
            cluster.close()


def _starts(process: Any, port: int | Callable[[], int], starts: int) -> tuple[float, float]:
    """Seconds and CPU seconds from start to ready, the middle ones; it runs afterwards."""
    walls, cpus = [], []
    for number in range(starts):
        began = time.monotonic()
        process.start()
        while not _ready(port):
            assert time.monotonic() - began < READY_SECONDS, process.tail()
            time.sleep(0.01)
        walls.append(time.monotonic() - began)
        cpus.append(cpu_seconds(process.pid))
        if number < starts - 1:
            process.stop()
    return statistics.median(walls), statistics.median(cpus)


def _ready(port: int | Callable[[], int]) -> bool:
    try:
        connection = http.client.HTTPConnection(HOST, port if isinstance(port, int) else port())
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException, KeyError):
        return False


def _operator(
    installation: Installation, starts: int, idle: float, report: Callable[[str], None]
) -> Iterator[Figure]:
    """On an API server of its own, with our definitions and nothing to do."""
    binary = cluster_binary(report)
    with tempfile.TemporaryDirectory(prefix="benchmark-image-") as path:
        folder = Path(path)
        folder.chmod(0o755)
        cluster = ControlPlane(binary, folder)
        try:
            cluster.start(sorted((ROOT / "crds").glob("*.yaml")))
            login = folder / "login"
            login.mkdir()
            (login / "config").write_text(cluster.kubeconfig.read_text())
            installation.show(login)
            process = OperatorProcess(
                login / "config", folder, python=installation.python, env=installation.env
            )
            report("operator ...")
            times = _starts(process, lambda: process.port, starts)
            time.sleep(idle)
            yield Figure("operator", "", *times, resident(process.pid))
            process.stop()
        finally:
            cluster.stop()
