"""Echo tasks through each system, bounded in count and in time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.brokers import cpu
from benchmarks.brokers.backends import Pair
from benchmarks.environment import DRAMATIQ, python_with
from benchmarks.measures import bare
from benchmarks.servers import (
    Server,
    ServerFailed,
    Service,
    create,
    original,
    ours,
    stop,
    wait_for_services,
)

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "benchmarks" / "source" / "src"
IN_FLIGHT = 64
ORIGINAL_START_SECONDS = 20.0
SLOTS = 32
"""Tasks that a worker of ours runs at a time."""


@dataclass(frozen=True)
class Bounds:
    """How much is asked.

    Attributes:
        rounds: how often the tasks in flight are measured; the middle one counts.
        original: its tasks by how many are in flight.
        original_seconds: for each of these.
    """

    tasks: int = 5000
    rounds: int = 3
    single: int = 500
    warm_up: int = 600
    original: Mapping[int, int] = field(default_factory=lambda: {8: 40, 64: 64})
    original_seconds: float = 30.0


QUICK = Bounds(tasks=1500, rounds=1, single=150, original={8: 16}, original_seconds=15.0)


@dataclass
class Figures:
    """What one system did on one pair.

    Attributes:
        rates: tasks/s with 64 in flight, one per round.
        bare: runs/s of the workflow library alone, right before and after.
        bare_cpu: microseconds of CPU of each of these runs.
        latency: of one at a time, milliseconds by quantile.
        cpu, cpu_single: microseconds per task by process.
    """

    system: str
    pair: str
    rates: list[float]
    bare: list[float] = field(default_factory=list)
    bare_cpu: list[float] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    cpu_single: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def run_bare(self) -> None:
        """Measure the yardstick once more."""
        alone = bare()
        self.bare.append(alone["runs_per_second"])
        self.bare_cpu.append(alone["cpu_us_per_run"])

    @property
    def rate(self) -> float:
        """The middle round's."""
        return statistics.median(self.rates)

    @property
    def share(self) -> float | None:
        """Of bare runs/s."""
        return self.rate / statistics.mean(self.bare) if self.bare else None


def measure_ours(pair: Pair, bounds: Bounds, replicas: int) -> Figures:
    """`llamactl serve` with `replicas` workers of the service."""
    services = {"echo": Service("workflow:echo", replicas, max_concurrent_tasks=SLOTS)}
    figures = Figures("this project", pair.name, [])
    figures.run_bare()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as parent:
        folder = Path(parent) / "bench"
        folder.mkdir()
        with ours(folder, SOURCE, services, backend=pair.backend) as server:
            create(server)
            groups = _groups(server, pair)
            _load(server, bounds.warm_up, IN_FLIGHT, 60)
            reports = []
            for _ in range(bounds.rounds):
                reports.append(_watched(groups, server, bounds.tasks, IN_FLIGHT))
                figures.rates.append(reports[-1][0]["per_second"])
            figures.cpu = _middle([used for _, used in reports])
            single, figures.cpu_single = _watched(groups, server, bounds.single, 1)
            figures.latency = _latency(single)
    figures.run_bare()
    return figures


def measure_original(pair: Pair, bounds: Bounds) -> Figures:
    """llama-deploy 0.8.1's API server; its best rate at any load counts.

    Its services sometimes never register; it is then started once more.

    Raises:
        ServerFailed: it did not come up the second time either.
    """
    try:
        return _measure_original(pair, bounds)
    except ServerFailed:
        return _measure_original(pair, bounds)


def _measure_original(pair: Pair, bounds: Bounds) -> Figures:
    figures = Figures("llama-deploy 0.8.1", pair.name, [])
    notes = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as parent:
        folder = Path(parent) / "bench"
        folder.mkdir()
        services = {"echo": Service("workflow:echo")}
        with original(folder, SOURCE, services, backend=pair.original) as server:
            create(server)
            wait_for_services(server, services, ORIGINAL_START_SECONDS)
            single = _load(server, 5, 1, bounds.original_seconds, strict=False)
            if single["count"] > 1:
                figures.latency = _latency(single)
            for in_flight, count in bounds.original.items():
                seen = _load(server, count, in_flight, bounds.original_seconds, strict=False)
                figures.rates.append(seen["per_second"])
                notes.append(
                    f"{seen['count']} of {count} with {in_flight} in flight in "
                    f"{seen['seconds']:.0f} s"
                )
    figures.note = "; ".join(notes)
    figures.rates = [max(figures.rates)]
    return figures


def measure_dramatiq(pair: Pair, results: Pair, bounds: Bounds) -> Figures:
    """Dramatiq on RabbitMQ with its results on Redis, two processes of workers."""
    python = python_with(DRAMATIQ, "dramatiq")
    environment = {
        **os.environ,
        "BENCHMARK_RABBITMQ": pair.queue_url,
        "BENCHMARK_REDIS": results.queue_url,
    }
    application = "benchmarks.brokers.dramatiq_app"
    figures = Figures("Dramatiq", pair.name, [])
    figures.run_bare()
    with tempfile.TemporaryFile() as log:
        workers = subprocess.Popen(
            [str(python), "-m", "dramatiq", "--processes", "2", "--threads", "16", application],
            cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            load = [str(python), "-m", application]
            _json([*load, "64", "8"], 60, environment)  # until its workers are up, and warm
            _json([*load, str(bounds.warm_up), str(IN_FLIGHT)], 60, environment)
            groups = {"Dramatiq's workers": [workers.pid], **pair.processes, **results.processes}
            reports = []
            for _ in range(bounds.rounds):
                reports.append(_watched_command(
                    groups, [*load, str(bounds.tasks), str(IN_FLIGHT)], environment
                ))  # fmt: skip
                figures.rates.append(reports[-1][0]["per_second"])
            figures.cpu = _middle([used for _, used in reports])
            command = [*load, str(bounds.single), "1"]
            single, figures.cpu_single = _watched_command(groups, command, environment)
            figures.latency = _latency(single)
        finally:
            stop(workers)
    figures.run_bare()
    figures.note = "no HTTP: its client talks to the broker itself"
    return figures


def _groups(server: Server, pair: Pair) -> dict[str, Sequence[int]]:
    workers = cpu.tree(server.process.pid)[1:]
    return {"workers": workers, "server": [server.process.pid], **pair.processes}


def _watched(
    groups: Mapping[str, Sequence[int]], server: Server, count: int, in_flight: int
) -> tuple[dict[str, Any], dict[str, float]]:
    before = _readings(groups)
    seen = _load(server, count, in_flight, 60)
    used = cpu.spent(before, _readings(groups), seen["count"])
    return seen, {**used, "load client": _client(seen)}


def _readings(groups: Mapping[str, Sequence[int]]) -> cpu.Clocks:
    """Workers apart from the server that is their parent, and by thread."""
    read = cpu.clocks(groups)
    if "workers" not in read:
        return read
    workers = read.pop("workers")
    server = {t: used for t, used in read.pop("server").items() if t not in workers}
    return {
        "API server (HTTP, control plane)": server,
        "workers: I/O thread": cpu.only(workers, main=True),
        "workers: workflow thread": cpu.only(workers, main=False),
        **read,
    }


def _watched_command(
    groups: Mapping[str, Sequence[int]], command: list[str], environment: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, float]]:
    before = cpu.clocks(groups)
    seen = _json(command, 120, environment)
    if seen["wrong"]:
        raise RuntimeError(f"{seen['wrong']} wrong answers: {seen['first_wrong']}")
    used = cpu.spent(before, cpu.clocks(groups), seen["count"])
    return seen, {**used, "load client": _client(seen)}


def _client(seen: Mapping[str, Any]) -> float:
    """Microseconds of the load client per task."""
    return float(1e6 * seen["client_cpu"] * seen["seconds"] / max(seen["count"], 1))


def _middle(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(r[name] for r in readings) for name in readings[0]}


def _latency(seen: Mapping[str, Any]) -> dict[str, float]:
    return {name: seen[f"{name}_ms"] for name in ("p50", "p95", "p99")}


def _load(
    server: Server, count: int, in_flight: int, seconds: float, strict: bool = True
) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "benchmarks.load", "tasks", "--url", server.api_url,
        "--deployment", server.folder.name, "--count", str(count), "--seconds", str(seconds),
        "--in-flight", str(in_flight),
    ]  # fmt: skip
    seen = _json(command, seconds + 30)
    if strict and (seen["wrong"] or seen["count"] < count):
        raise RuntimeError(
            f"{seen['count']} of {count} right, {seen['wrong']} wrong: {seen['first_wrong']}\n"
            f"{server.tail()}"
        )
    return seen


def _json(
    command: list[str], seconds: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[1:4])} failed after {time.monotonic() - started:.0f} s:\n"
            f"{done.stderr[-2000:]}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
