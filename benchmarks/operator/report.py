"""The figures as Markdown and as JSON, beside what they have to reach."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from benchmarks.machine import machine
from benchmarks.operator.measures import Figures, percentile

KUBERAY_SECONDS = 258.28
"""``WaitForRayCluster`` in benchmark/perf-tests/1000-raycluster/results/junit.xml of
ray-project/kuberay: 1,000 RayClusters of four pods, KubeRay v1.1.1 on GKE, images already on the
nodes, from the end of their creation (which took 10.6 s) until all were ready."""
KUBERAY_COUNT = 1000
MEMORY_MIB = 250.0
RESTART_SECONDS = 60.0
QUIET = 0.9
"""Idle share of the machine before; below it the figures say little."""


def missed(figures: Figures) -> list[str]:
    """One sentence for each target that is not reached."""
    found = []
    waited = figures.all_ready - figures.creating
    # Their figure is of 1,000; a smaller run has to be as fast in proportion.
    wanted = KUBERAY_SECONDS * figures.count / KUBERAY_COUNT
    if waited > wanted:
        found.append(f"all Ready {waited:.0f} s after the last creation, not {wanted:.0f} s")
    if figures.memory_peak > MEMORY_MIB:
        found.append(f"operator's memory {figures.memory_peak:.0f} MiB, not {MEMORY_MIB:.0f}")
    if figures.restart > RESTART_SECONDS:
        found.append(f"restart to steady {figures.restart:.0f} s, not {RESTART_SECONDS:.0f} s")
    if figures.restart_writes:
        found.append(f"a restarted operator wrote: {figures.restart_writes}")
    return found


def document(figures: Figures, command: str) -> dict[str, Any]:
    """Everything, ready for ``json.dump``."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "machine": machine(),
        "figures": asdict(figures),
        "missed": missed(figures),
    }


def markdown(figures: Figures, command: str) -> str:
    """The table."""
    here, f = machine(), figures
    waited = f.all_ready - f.creating
    rows = [
        ("all created", f"{f.creating:.1f} s", ""),
        ("all Ready, from the first creation", f"{f.all_ready:.1f} s", ""),
        (
            "all Ready, from the last creation",
            f"{waited:.1f} s",
            f"KubeRay {KUBERAY_SECONDS:.0f} s for {KUBERAY_COUNT:,}",
        ),
        ("created to children applied, p50 / p99", _pair(f.applied, 2), ""),
        ("created to Ready, p50 / p99", _pair(f.ready, 0), ""),
        ("operator's API requests per Deployment", f"{f.requests_per_resource:.1f}", ""),
        ("reconciliations per Deployment", f"{f.reconciliations / f.count:.1f}", ""),
        (
            "operator's memory, peak / steady",
            f"{f.memory_peak:.0f} / {f.memory_steady:.0f} MiB",
            f"<= {MEMORY_MIB:.0f} MiB",
        ),
        ("restart to steady", f"{f.restart:.1f} s", f"<= {RESTART_SECONDS:.0f} s"),
        ("writes of the restarted operator", f"{sum(f.restart_writes.values())}", "0"),
    ]
    lines = [
        f"Measured on {time.strftime('%Y-%m-%d')} with `{command}` on {here['cores']} cores of "
        f"{here['cpu']}, {here['system']}, Python {here['python']}: {f.count:,} Deployments of two "
        f"services, {f.children:,} children, {f.pods:,} pods.",
        "",
        "| measure | figure | target or comparison |",
        "|---|---:|---|",
        *(f"| {name} | {figure} | {target} |" for name, figure, target in rows),
        "",
        "CPU until all were Ready: "
        + ", ".join(f"{name} {used:.0f} s" for name, used in f.cpu.items())
        + ".",
        "",
        "The operator's requests until steady: "
        + ", ".join(
            f"{number:,} {what}"
            for what, number in f.requests.items()
            if not what.startswith("watch ")
        )
        + ".",
    ]
    if f.idle < QUIET:
        lines += ["", f"**Not a quiet machine**: {1 - f.idle:.0%} of it was busy before the run."]
    return "\n".join(lines)


def _pair(values: list[float], digits: int) -> str:
    return f"{percentile(values, 50):.{digits}f} / {percentile(values, 99):.{digits}f} s"
