"""The figures of a run as Markdown, and which targets were missed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.brokers.measures import Figures
from benchmarks.brokers.stages import STAGES
from benchmarks.machine import machine

OURS, ORIGINAL = "this project", "llama-deploy 0.8.1"
LEAST_RATIO = 100.0


@dataclass(frozen=True)
class Target:
    """What is to be reached on a pair.

    Attributes:
        rate: tasks/s with 64 in flight.
        share: of bare `Workflow.run()` in one process of the same run.
        p50: milliseconds, one at a time.
    """

    rate: float
    share: float
    p50: float


TARGETS = {
    "Redis + Redis, appendfsync everysec": Target(1000, 0.5, 6.0),
    "RabbitMQ + PostgreSQL": Target(600, 0.3, 6.0),
}


def missed(figures: Sequence[Figures]) -> list[str]:
    """One sentence for each target that was not reached."""
    found = []
    for each in figures:
        target = TARGETS.get(each.pair)
        if each.system != OURS or target is None:
            continue
        share = each.share or 0.0
        if each.rate < target.rate:
            found.append(f"Missed: {each.pair}: {each.rate:.0f} tasks/s, not >= {target.rate:.0f}")
        if share < target.share:
            found.append(f"Missed: {each.pair}: {share:.2f} of bare runs/s, not >= {target.share}")
        if each.latency["p50"] > target.p50:
            found.append(
                f"Missed: {each.pair}: p50 {each.latency['p50']:.2f} ms, not <= {target.p50:g}"
            )
        ratio = _ratio(each, figures)
        if ratio is not None and ratio < LEAST_RATIO:
            found.append(f"Missed: {each.pair}: {ratio:.0f} times llama-deploy 0.8.1, not >= 100")
    return found


def markdown(
    figures: Sequence[Figures],
    stages: dict[str, dict[str, float]],
    idle: dict[str, float],
    command: str,
) -> str:
    """All tables of a run."""
    here = machine()
    parts = [
        f"Measured on {time.strftime('%Y-%m-%d')} with `{command}` on {here['cores']} cores of "
        f"{here['cpu']}, {here['system']}, Python {here['python']}.",
        _rates(figures),
        _notes(figures, idle),
        "CPU time, microseconds per task of all threads, 64 in flight / one at a time:",
        *(_cpu(each) for each in figures if each.cpu),
    ]
    if stages:
        parts += [
            "Where the time of one task goes, microseconds on the clock, one task at a time, on "
            "queue and store alone (no HTTP, no workflow):",
            _stages(stages),
        ]
    return "\n\n".join(parts)


def document(figures: Sequence[Figures], stages: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The same for `json.dump`."""
    return {
        "machine": machine(), "figures": [asdict(each) for each in figures], "stages": stages,
    }  # fmt: skip


def _rates(figures: Sequence[Figures]) -> str:
    lines = [
        "| queue and store | system | tasks/s, 64 in flight | bare runs/s | share of bare | "
        "p50 / p95 / p99, one at a time | ours is faster by | target |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for each in figures:
        bare = f"{sum(each.bare) / len(each.bare):,.0f}" if each.bare else ""
        share = f"{each.share:.2f}" if each.share is not None else ""
        latency = " / ".join(_ms(value) for value in each.latency.values())
        ratio = _against(each, figures)
        target = TARGETS.get(each.pair) if each.system == OURS else None
        wanted = (
            f">= {target.rate:,.0f}/s, share >= {target.share}, p50 <= {target.p50:g} ms"
            if target else ""
        )  # fmt: skip
        rate = f"{each.rate:,.0f}" if each.rate >= 100 else f"{each.rate:.2f}"
        cells = [each.pair, each.system, rate, bare, share, latency, ratio, wanted]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.2f} ms"


def _against(each: Figures, figures: Sequence[Figures]) -> str:
    """How many times faster ours is than `each`."""
    if each.system == OURS:
        return ""
    ours = next((f for f in figures if f.system == OURS and f.pair == each.pair), None)
    if ours is None or not each.rate:
        return ""
    ratio = ours.rate / each.rate
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2f}x"


def _ratio(ours: Figures, figures: Sequence[Figures]) -> float | None:
    original = next((f for f in figures if f.system == ORIGINAL and f.pair == ours.pair), None)
    if original is None:
        return None
    return ours.rate / original.rate if original.rate else float("inf")


def _notes(figures: Sequence[Figures], idle: dict[str, float]) -> str:
    lines = []
    for each in figures:
        rounds = ", ".join(f"{rate:,.0f}" for rate in each.rates)
        if len(each.rates) > 1:
            lines.append(f"- {each.system} on {each.pair}: rounds of {rounds} tasks/s.")
        if each.note:
            lines.append(f"- {each.system} on {each.pair}: {each.note}.")
    busy = [f"{1 - share:.0%} before {name}" for name, share in idle.items() if share < 0.9]
    if busy:
        lines.append(f"- **Not a quiet machine**: busy with something else: {', '.join(busy)}.")
    return "\n".join(lines)


def _cpu(each: Figures) -> str:
    lines = [f"| {each.system} on {each.pair} | 64 in flight | one at a time |", "|---|---:|---:|"]
    for name, used in each.cpu.items():
        lines.append(f"| {name} | {used:,.0f} | {each.cpu_single.get(name, 0):,.0f} |")
    total, single = sum(each.cpu.values()), sum(each.cpu_single.values())
    lines.append(f"| **all** | **{total:,.0f}** | **{single:,.0f}** |")
    if each.bare:
        alone = sum(each.bare_cpu) / len(each.bare_cpu)
        lines.append(f"| a bare `Workflow.run()`, for comparison | {alone:,.0f} | {alone:,.0f} |")
    return "\n".join(lines)


def _stages(stages: dict[str, dict[str, float]]) -> str:
    lines = [f"| stage | {' | '.join(stages)} |", "|---|" + "---:|" * len(stages)]
    for stage, told in STAGES.items():
        cells = [f"{found[stage]:,.0f}" for found in stages.values()]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    totals = [f"**{sum(found.values()):,.0f}**" for found in stages.values()]
    lines.append(f"| **all** | {' | '.join(totals)} |")
    return "\n".join(lines)
