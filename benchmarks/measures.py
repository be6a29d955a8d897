"""The four measurements, each on a running server; every one bounded in count and time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_seconds
from benchmarks.servers import Server, create, wait_for_services

ROOT = Path(__file__).parents[1]
SERVICES = ("echo", "stream")
ORIGINAL = "llama-deploy 0.8.1"
OURS = "this project"


@dataclass(frozen=True)
class Bounds:
    """How much to ask of one server: counts of tasks or events, and seconds at most."""

    tasks: dict[int, int]
    """Tasks by how many are in flight."""
    tasks_seconds: float
    single: int
    single_seconds: float
    events: tuple[int, ...]
    events_seconds: float


FULL = {
    # The original does one or two tasks and about six events per second; what it has not ended
    # by the bound slows down what comes after, so the counts are what it can do.
    ORIGINAL: Bounds({8: 32, 64: 64}, 150, 20, 40, (100, 400), 150),
    OURS: Bounds({8: 5000, 64: 10_000}, 60, 1000, 60, (100, 400, 1000, 10_000, 100_000), 180),
}
QUICK = {
    ORIGINAL: Bounds({8: 16, 64: 64}, 60, 5, 20, (50,), 60),
    OURS: Bounds({8: 1000, 64: 2000}, 20, 200, 20, (50, 1000, 10_000), 60),
}


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    measure: str
    server: str
    value: float
    unit: str
    detail: dict[str, Any]

    @property
    def per_second(self) -> float | None:
        """The figure as a rate, to compare it with bare runs; None for what is no rate."""
        if self.unit.endswith("/s"):
            return self.value
        return 1000 / self.value if self.unit == "ms" else None


def create_to_result(server: Server, name: str, bounds: Bounds) -> list[Figure]:
    """Seconds from `deployments/create` to the first result."""
    started = time.perf_counter()
    create(server)
    created = time.perf_counter() - started
    if name == ORIGINAL:
        # It answers before its services run, and loses a task sent meanwhile.
        wait_for_services(server, SERVICES)
    request = urllib.request.Request(
        f"{server.api_url}/deployments/{server.folder.name}/tasks/run",
        data=b'{"input": "{\\"message\\": \\"x\\"}", "service_id": "echo"}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        result = json.load(reply)
    if result != "echo: x":
        raise RuntimeError(f"{name} answered {result!r} to the first task")
    seconds = time.perf_counter() - started
    return [Figure("create to first result", name, seconds, "s", {"create_seconds": created})]


def many(server: Server, name: str, bounds: Bounds) -> list[Figure]:
    """Echo tasks with 8 and with 64 in flight; the original is at its best with few."""
    figures = []
    for in_flight, count in bounds.tasks.items():
        if name == OURS:
            _tasks(server, 200, in_flight, 20)
        seen = _tasks(server, count, in_flight, bounds.tasks_seconds)
        measure = f"echo tasks, {in_flight} in flight"
        figures.append(Figure(measure, name, seen["per_second"], "tasks/s", seen))
    return figures


def single(server: Server, name: str, bounds: Bounds) -> list[Figure]:
    """Echo tasks one at a time."""
    if name == OURS:
        _tasks(server, 50, 1, 20)
    seen = _tasks(server, bounds.single, 1, bounds.single_seconds)
    return [
        Figure("one task at a time, p50", name, seen["p50_ms"], "ms", seen),
        Figure("one task at a time, p99", name, seen["p99_ms"], "ms", seen),
    ]


def events(server: Server, name: str, bounds: Bounds) -> list[Figure]:
    """One stream, from the writing workflow to the HTTP reader, in growing sizes."""
    figures = []
    for count in bounds.events:
        seen = _load(server, "events", count, bounds.events_seconds)
        figures.append(
            Figure(f"stream of {count:,} events", name, seen["per_second"], "events/s", seen)
        )
    return figures


MEASURES: dict[str, Callable[[Server, str, Bounds], list[Figure]]] = {
    # The crowd comes last: what it leaves behind in the original would slow the others down.
    "create": create_to_result,
    "latency": single,
    "events": events,
    "tasks": many,
}


def bare() -> dict[str, float]:
    """Rates of the workflow library alone, in a process of its own."""
    return _json([sys.executable, "-m", "benchmarks.bare"], 120)


def _tasks(server: Server, count: int, in_flight: int, seconds: float) -> dict[str, Any]:
    used = cpu_seconds(server.process.pid)
    seen = _load(server, "tasks", count, seconds, "--in-flight", str(in_flight))
    used = cpu_seconds(server.process.pid) - used
    seen["cpu_ms_per_task"] = 1000 * used / max(seen["count"], 1)
    if seen["wrong"]:
        raise RuntimeError(f"{seen['wrong']} wrong answers, the first: {seen['first_wrong']}")
    return seen


def _load(server: Server, what: str, count: int, seconds: float, *options: str) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "benchmarks.load", what, "--url", server.api_url,
        "--deployment", server.folder.name, "--count", str(count), "--seconds", str(seconds),
        *options,
    ]  # fmt: skip
    return _json(command, seconds + 60)


def _json(command: list[str], seconds: float) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
