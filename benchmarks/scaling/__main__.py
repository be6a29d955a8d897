"""``python -m benchmarks.scaling``: simulate every load under every controller; no cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.scaling.controllers import controllers
from benchmarks.scaling.loads import LOADS, Load
from benchmarks.scaling.measure import Measures, measure
from benchmarks.scaling.plot import plot
from benchmarks.scaling.report import section, write
from benchmarks.scaling.simulation import Simulation, Trace

DOCS = Path(__file__).parents[2] / "docs"


def simulate(load: Load) -> tuple[dict[str, Trace], list[Measures]]:
    """One load under every controller, each from one replica."""
    traces, found = {}, []
    for controller in controllers():
        trace = Simulation(load, controller, start=1).run()
        traces[controller.name] = trace
        found.append(measure(controller.name, load, trace))
    return traces, found


def main() -> None:
    """Print the tables, and write them and the pictures to the docs on demand."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--only", choices=[each.name for each in LOADS], help="one load")
    parser.add_argument(
        "--write", action="store_true", help="renew docs/scaling.md and the pictures beside it"
    )
    given = parser.parse_args()
    images, sections = DOCS / "images", []
    for load in LOADS:
        if given.only in (None, load.name):
            traces, found = simulate(load)
            sections.append(section(load, found, f"images/scaling-{load.name}.svg"))
            print(sections[-1], flush=True)
            if given.write:
                images.mkdir(exist_ok=True)
                plot(load, traces, images)
    if given.write:
        write(DOCS / "scaling.md", "\n".join(sections).rstrip() + "\n")


if __name__ == "__main__":
    main()
