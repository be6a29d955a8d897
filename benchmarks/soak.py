"""`python -m benchmarks.soak`: many tasks with retention on; does the memory of a process grow?

Finished tasks expire after `--retention` seconds, so that expiry runs all the time. The resident
memory of the server and of each worker is sampled every two seconds; the slope is a straight line
fitted through the second half, when caches and pools have reached their size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.servers import Server, Service, create, ours

ROOT = Path(__file__).parents[1]
SOURCE = Path(__file__).parent / "source" / "src"
SAMPLE_SECONDS = 2.0
BOUND = 2.0
"""MiB per 100,000 tasks that still count as no growth: about 20 bytes a task, less than any record
that could be kept of one."""


def main() -> int:
    """0 when no process grew, 1 when one did, 2 when tasks failed."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="soak-") as parent:
        folder = Path(parent) / "soak"
        folder.mkdir()
        services = {"echo": Service("workflow:echo", replicas=2)}
        extra = ("--retention", str(options.retention))
        with ours(folder, SOURCE, services, extra=extra) as server:
            create(server)
            samples, load = _run(server, options)
    if load["wrong"] or load["count"] < options.tasks:
        print(f"Error: {load['wrong']} wrong answers, {load['count']} right: {load}")
        return 2
    report = {
        "machine": machine(),
        "tasks": load["count"],
        "seconds": load["seconds"],
        "per_second": load["per_second"],
        "retention_seconds": options.retention,
        "processes": {
            name: _growth([(tasks, kib[name]) for tasks, kib in samples if name in kib])
            for name in sorted(samples[-1][1])
        },
    }
    print(markdown(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    grew = [n for n, p in report["processes"].items() if p["mib_per_100k_tasks"] > BOUND]
    for name in grew:
        print(f"Missed: {name} grows", file=sys.stderr)
    return 1 if grew else 0


def markdown(report: dict[str, Any]) -> str:
    """The table that stands in docs/benchmarks.md."""
    lines = [
        f"{report['tasks']:,} echo tasks, 64 in flight, {report['per_second']:.0f} tasks/s,"
        f" finished tasks kept for {report['retention_seconds']:g} s, SQLite, two workers:",
        "",
        "| process | at half time | at the end | slope of the second half |",
        "|---|---|---|---|",
    ]
    for name, p in report["processes"].items():
        slope = f"{p['mib_per_100k_tasks']:+.2f} MiB per 100,000 tasks"
        lines.append(f"| {name} | {p['half_mib']:.1f} MiB | {p['end_mib']:.1f} MiB | {slope} |")
    return "\n".join(lines)


def _run(
    server: Server, options: argparse.Namespace
) -> tuple[list[tuple[float, dict[str, int]]], dict[str, Any]]:
    """Samples of (share of the tasks done, KiB by process), and the load client's report."""
    pids = {"server": server.process.pid, **_workers(server)}
    command = [
        sys.executable, "-m", "benchmarks.load", "tasks", "--url", server.api_url,
        "--deployment", server.folder.name, "--count", str(options.tasks),
        "--seconds", str(options.seconds), "--in-flight", "64", "--keep",
    ]  # fmt: skip
    client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    started = time.monotonic()
    samples = []
    try:
        while client.poll() is None:
            kib = {name: _resident(pid) for name, pid in pids.items()}
            samples.append((time.monotonic() - started, kib))
            try:
                client.wait(SAMPLE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    finally:
        client.kill()
    assert client.stdout is not None
    load: dict[str, Any] = json.loads(client.stdout.read())
    # The rate is even, so time stands for tasks.
    return [(at * load["per_second"], kib) for at, kib in samples], load


def _workers(server: Server) -> dict[str, int]:
    with urllib.request.urlopen(f"{server.api_url}/status/", timeout=10) as reply:
        details = json.load(reply)["details"][server.folder.name]["services"]
    return {w["name"]: w["pid"] for s in details.values() for w in s["workers"]}


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has ended")


def _growth(points: list[tuple[float, int]]) -> dict[str, float]:
    second = points[len(points) // 2 :]
    slope = statistics.linear_regression(*zip(*second, strict=True)).slope
    return {
        "half_mib": second[0][1] / 1024,
        "end_mib": second[-1][1] / 1024,
        "mib_per_100k_tasks": slope * 100_000 / 1024,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=1500, help="upper bound")
    parser.add_argument("--retention", type=float, default=20.0, help="seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every detail here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
