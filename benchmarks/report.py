"""The measured figures as Markdown and as JSON, with the machine that gave them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.machine import machine
from benchmarks.measures import ORIGINAL, OURS, Figure

TARGETS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "create to first result": ("<= 3 s", lambda value: value <= 3),
    "echo tasks, 64 in flight": (
        ">= 500/s, >= 100 times the original's best",
        lambda value: value >= 500,
    ),
    "one task at a time, p50": ("<= 6 ms", lambda value: value <= 6),
    "stream of 100,000 events": (">= 5,000/s", lambda value: value >= 5000),
}
LEAST_RATIO = 100


QUIET = 0.9
"""Idle share of the machine before a measurement; below it the figures say little."""


def document(
    command: str, figures: list[Figure], bare: dict[str, float], idle: dict[str, float]
) -> dict[str, Any]:
    """Everything of one run, ready for `json.dump`. `idle`: share of the machine that was idle
    before each server was started."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "machine": machine(),
        "idle": idle,
        "bare": bare,
        "figures": [asdict(figure) for figure in figures],
    }


def markdown(run: dict[str, Any]) -> str:
    """The table of a run's `document`."""
    here = run["machine"]
    lines = [
        f"Measured on {run['date']} with `{run['command']}` on {here['cores']} cores of "
        f"{here['cpu']}, {here['system']}, Python {here['python']}.",
        "",
        f"`Workflow.run()` alone, in one process of the same run: "
        f"{run['bare']['runs_per_second']:,.0f} runs/s, and "
        f"{run['bare']['events_per_second']:,.0f} events/s read from one run.",
        "",
        f"| measure | {ORIGINAL} | {OURS} | ratio | share of bare runs/s | target |",
        "|---|---:|---:|---:|---:|---|",
    ]
    figures = [Figure(**each) for each in run["figures"]]
    for measure in dict.fromkeys(figure.measure for figure in figures):
        by_server = {each.server: each for each in figures if each.measure == measure}
        lines.append(_row(measure, by_server, run["bare"]["runs_per_second"]))
    return "\n".join([*lines, "", *_busy(run["idle"]), *_notes(figures)])


def missed(figures: list[Figure]) -> list[str]:
    """One sentence for each target that a figure of ours does not reach."""
    sentences = []
    # Against the best that the original does at any load, not only at the same one.
    best = max((each.value for each in _rates(figures, ORIGINAL)), default=0.0)
    for each in _rates(figures, OURS):
        if best and each.measure in TARGETS and each.value < LEAST_RATIO * best:
            sentences.append(
                f"{each.measure}: {each.value / best:.0f} times the original's best, "
                f"not {LEAST_RATIO} times"
            )
    for each in figures:
        if each.server == OURS and each.measure in TARGETS:
            wanted, reached = TARGETS[each.measure]
            if not reached(each.value):
                sentences.append(f"{each.measure}: {each.value:.4g} {each.unit}, not {wanted}")
    for each in figures:
        if each.server == OURS and each.detail.get("complete") is False:
            sentences.append(f"{each.measure}: events are missing or out of order")
    return sentences


def _rates(figures: list[Figure], server: str) -> list[Figure]:
    return [each for each in figures if each.server == server and each.unit == "tasks/s"]


def _row(measure: str, figures: dict[str, Figure], runs: float) -> str:
    original, ours = figures.get(ORIGINAL), figures.get(OURS)
    ratio = share = ""
    if original and ours:
        faster = ours.value / original.value
        ratio = f"{faster:,.0f}x" if ours.unit.endswith("/s") else f"{1 / faster:,.1f}x"
    if ours and ours.per_second is not None:
        share = f"{ours.per_second / runs:.1%}"
    target = TARGETS[measure][0] if measure in TARGETS else ""
    cells = [measure, _value(original), _value(ours), ratio, share, target]
    return f"| {' | '.join(cells)} |"


def _value(figure: Figure | None) -> str:
    if figure is None:
        return ""
    digits = 0 if figure.value >= 100 else 2
    return f"{figure.value:,.{digits}f} {figure.unit}"


def _busy(idle: dict[str, float]) -> list[str]:
    return [
        f"- **Not a quiet machine**: {1 - share:.0%} of it was busy with something else before "
        f"{server} was started."
        for server, share in idle.items()
        if share < QUIET
    ]


def _notes(figures: list[Figure]) -> list[str]:
    streams = {
        each.detail["count"]: each.detail["seconds"]
        for each in figures
        if each.server == OURS and each.unit == "events/s"
    }
    notes = [
        f"{each.measure}: our processes used {each.detail['cpu_ms_per_task']:.2f} ms of CPU per "
        f"task, the load client {each.detail['client_cpu']:.0%} of one core."
        for each in _rates(figures, OURS)
    ]
    if len(streams) > 1:
        largest, before = sorted(streams, reverse=True)[:2]
        growth = streams[largest] / streams[before]
        notes.append(
            f"From {before:,} to {largest:,} events the time grows {growth:.1f} times "
            f"(linear would be {largest / before:.1f})."
        )
    return [f"- {note}" for note in notes]
