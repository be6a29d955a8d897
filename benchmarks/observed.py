"""``python -m benchmarks.observed``: a load run that a real Prometheus watches, and the picture
that the Grafana dashboard's own queries give of it.

One control plane, one orchestrator and two workers of eight slots, on a Redis server of the run's
own; a task takes 0.1 s. Four clients, then forty, then a worker is killed and started again, then a
tenth of the tasks fails and some ask a person. Two minutes (``--scale`` shortens it); needs
Debian's ``prometheus``, and Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import matplotlib
from tests.brokers.prometheus import PrometheusServer

from benchmarks.brokers.backends import redis
from llamadeploy.testing import Cluster

matplotlib.use("svg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "observed.svg"
DASHBOARD = ROOT / "helm" / "llamadeploy-operator" / "files" / "dashboard.json"
RATE = "5s"
"""In place of the dashboard's interval: scrapes come once a second here."""
MOST_LINES = 6

WORKFLOW = """
import asyncio
from workflows import Workflow, step
from workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

class Work(Workflow):
    @step
    async def work(self, ev: StartEvent) -> StopEvent | InputRequiredEvent:
        if ev.do == "ask":
            return InputRequiredEvent()
        await asyncio.sleep(0.1)
        if ev.do == "fail":
            raise ValueError("asked for")
        return StopEvent(result="done")

    @step
    async def answered(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result="answered")

workflow = Work(timeout=None)
"""


@dataclass(frozen=True)
class Phase:
    """A stretch of the run.

    Attributes:
        name: what the picture says of it.
        seconds: its length, of a run of full length.
        clients: each runs one task after the other.
        event: ``kill`` or ``start`` a worker at its begin.
        mixed: of ten tasks one fails; one in forty asks a person.
    """

    name: str
    seconds: float
    clients: int
    event: str = ""
    mixed: bool = False


PHASES = (
    Phase("4 clients", 25, 4),
    Phase("40 clients", 30, 40),
    Phase("a worker killed", 12, 40, event="kill"),
    Phase("started again", 15, 20, event="start"),
    Phase("a tenth fails", 20, 8, mixed=True),
)


@dataclass(frozen=True)
class Panel:
    """A time series panel of the dashboard.

    Attributes:
        queries: expression and legend.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def panels() -> Iterator[Panel]:
    """Of the dashboard's file, with its variables filled in: everything of one deployment."""
    for each in json.loads(DASHBOARD.read_text())["panels"]:
        if each["type"] == "timeseries":
            unit = each["fieldConfig"]["defaults"].get("unit", "short")
            found = [(_filled(t["expr"]), t.get("legendFormat", "")) for t in each["targets"]]
            yield Panel(each["title"], unit, tuple(found))


def _filled(expression: str) -> str:
    return re.sub(r"\$\w+", ".*", expression.replace("$__rate_interval", RATE))


async def load(cluster: Cluster, scale: float) -> list[tuple[float, str]]:
    """Run the phases; gives each one's begin (Unix time) and name."""
    begins = []
    async with httpx.AsyncClient(
        base_url=cluster.urls[0], headers=cluster.headers, timeout=60, trust_env=False,
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=100),
    ) as http:  # fmt: skip
        for phase in PHASES:
            if phase.event:
                getattr(cluster.workers["workflow"][0], phase.event)()
            begins.append((time.time(), phase.name))
            until = time.monotonic() + phase.seconds * scale
            clients = (
                _client(http, cluster.deployment, phase, until) for _ in range(phase.clients)
            )
            await asyncio.gather(*clients)
    return begins


async def _client(http: httpx.AsyncClient, deployment: str, phase: Phase, until: float) -> None:
    number = 0
    while time.monotonic() < until:
        number += 1
        do = "work"
        if phase.mixed:
            do = "fail" if number % 10 == 0 else "ask" if number % 40 == 5 else "work"
        url = f"/deployments/{deployment}/tasks/{'create' if do == 'ask' else 'run'}"
        reply = await http.post(url, json={"input": json.dumps({"do": do})})
        reply.raise_for_status()


async def observe(folder: Path, scale: float = 1.0) -> tuple[dict[str, Any], list[Any]]:
    """Panel title -> unit and series (legend -> times since the begin and values); and the phases'
    begins in seconds. A panel without numbers is left out.

    Args:
        scale: of every phase's length.
    """
    with ExitStack() as stack:
        pair = stack.enter_context(redis())
        (folder / "prometheus").mkdir()
        (folder / "code").mkdir()
        async with Cluster(
            folder / "code", WORKFLOW, queue_type="redis", queue_url=pair.queue_url,
            state_store_uri=pair.queue_url, queue_options={"exclusive_mode": True},
            services={"workflow": {"replicas": 2}}, deployment="observed",
        ) as cluster:  # fmt: skip
            targets = [urlsplit(each.metrics_url).netloc for each in cluster.processes]
            prometheus = PrometheusServer(folder / "prometheus", targets)
            stack.callback(prometheus.stop)
            prometheus.start()
            watched = f"count(up == 1) == {len(targets)}"
            prometheus.until(lambda: prometheus.query(watched))
            began = time.time()
            begins = await load(cluster, scale)
            end = time.time()
            await asyncio.sleep(2)  # the last scrape
            found = {}
            for panel in panels():
                if lines := series(prometheus, panel, began, end):
                    found[panel.title] = (panel.unit, lines)
    return found, [(at - began, name) for at, name in begins]


def series(
    prometheus: PrometheusServer, panel: Panel, began: float, end: float
) -> dict[str, tuple[list[float], list[float]]]:
    """Legend -> times since ``began``, and values; a series without numbers is left out."""
    found = {}
    for expression, legend in panel.queries:
        for each in prometheus.range(expression, began, end, 1):
            labels = each["metric"]
            name = re.sub(r"{{(\w+)}}", lambda m, labels=labels: labels.get(m[1], ""), legend)
            points = [(float(at) - began, float(value)) for at, value in each["values"]]
            points = [(at, value) for at, value in points if value == value]
            if points:
                times, values = zip(*points, strict=True)
                found[name.strip() or panel.title] = (list(times), list(values))
    return found


def plot(found: dict[str, Any], begins: list[tuple[float, str]], path: Path) -> None:
    """All panels below each other in two columns."""
    rows = -(-len(found) // 2)
    with plt.rc_context({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "llamadeploy"}):
        figure, axes = plt.subplots(
            rows, 2, figsize=(10, 2.1 * rows), sharex=True, layout="constrained", squeeze=False
        )
        for axis, (title, (unit, lines)) in zip(axes.flat, found.items(), strict=False):
            highest = sorted(lines.items(), key=lambda each: -max(each[1][1]))[:MOST_LINES]
            for name, (times, values) in sorted(highest):
                axis.plot(times, values, lw=1, label=name)
            axis.set_title(f"{title} ({_UNITS.get(unit, unit)})", fontsize=9)
            axis.legend(fontsize=6, frameon=False, ncols=2)
            axis.set_ylim(bottom=0)
            for at, _ in begins[1:]:
                axis.axvline(at, color="#999999", lw=0.5, ls=":")
        for axis in axes.flat[len(found) :]:
            axis.set_axis_off()
        names = " | ".join(f"{at:.0f} s: {name}" for at, name in begins)
        figure.supxlabel(f"seconds; {names}", fontsize=8)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)


_UNITS = {"reqps": "per second", "s": "seconds", "short": "count", "bytes": "bytes"}


def main() -> None:
    """Run it, print each panel's highest values, and write the picture on demand."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observed", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"renew {PICTURE.relative_to(ROOT)}")
    parser.add_argument("--scale", type=float, default=1.0, help="of each phase's length")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="observed-", ignore_cleanup_errors=True) as folder:
        found, begins = asyncio.run(observe(Path(folder), given.scale))
    for title, (unit, lines) in found.items():
        print(f"{title} ({_UNITS.get(unit, unit)})")
        for name, (_, values) in sorted(lines.items()):
            print(f"  {name:30} highest {max(values):.4g}, last {values[-1]:.4g}")
    if given.write:
        plot(found, begins, PICTURE)
        print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
