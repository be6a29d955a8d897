"""Pictures of the simulation, as SVG: small, and the same for the same traces."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

from benchmarks.scaling.loads import Load
from benchmarks.scaling.simulation import Trace

_COLOURS = ("#1f77b4", "#2ca02c", "#9467bd", "#d62728", "#ff7f0e")
_POINTS = 240


def plot(load: Load, traces: dict[str, Trace], folder: Path) -> Path:
    """Replicas above, waiting tasks below. Gives the file."""
    settings = {"svg.hashsalt": "llamadeploy", "svg.fonttype": "none", "font.size": 9}
    with plt.rc_context(settings):
        figure, (above, below) = plt.subplots(
            2, 1, figsize=(8, 4.4), sharex=True, height_ratios=(3, 2), layout="constrained"
        )
        for (name, trace), colour in zip(traces.items(), _COLOURS, strict=False):
            times = [at / 60 for at, _ in trace.changes] + [trace.end / 60]
            counts = [count for _, count in trace.changes]
            above.step(times, [*counts, counts[-1]], where="post", label=name, color=colour, lw=1)
            queue = _thinned(trace.queue)
            below.plot([at / 60 for at, _ in queue], [n for _, n in queue], color=colour, lw=1)
        above.set_title(load.title, fontsize=10)
        above.set_ylabel("replicas")
        above.legend(fontsize=8, frameon=False, ncols=2)
        below.set_ylabel("tasks that wait")
        below.set_xlabel("minutes")
        path = folder / f"scaling-{load.name}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return path


def _thinned(queue: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The highest of each stretch."""
    width = max(1, len(queue) // _POINTS)
    parts = (queue[index : index + width] for index in range(0, len(queue), width))
    return [max(part, key=lambda each: each[1]) for part in parts]
