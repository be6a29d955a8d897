"""What HPA's rules and KEDA's defaults do with the load of ``live``, simulated.

A load may begin at any moment between two of their looks: each figure is from the best to the worst
of those moments.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.scaling import simulation
from benchmarks.scaling.controllers import KEDA_POLL_SECONDS, Hpa, Keda
from benchmarks.scaling.loads import Load
from benchmarks.scaling.simulation import Simulation, Trace

PHASES = 10
BEGIN = 600.0
"""Everything is idle until then."""


@dataclass(frozen=True)
class _Run:
    begin: float
    trace: Trace

    def asked(self, count: int) -> float:
        return next(at for at, n in self.trace.changes if at >= self.begin and n >= count)


def baselines(tasks: int, pause: float, most: int, start: float) -> dict[str, dict[str, str]]:
    """Text per measure, by controller.

    Args:
        start: seconds that a worker takes to work, as measured.
    """
    simulation.START_SECONDS, simulation.RUN_SECONDS = start, pause
    hpa = [_run(Hpa(most), 1, phase, tasks) for phase in _phases()]
    keda = [_run(Keda(most), 0, phase, tasks) for phase in _phases()]
    one = [_run(Keda(most), 0, phase, 1) for phase in _phases()]
    from_zero = [run.asked(1) - run.begin for run in one]
    return {
        "HPA": {
            "zero": "one always runs",
            "first": "one always runs",
            "asked": _span([run.asked(most) - run.begin for run in hpa]),
            "drained": _span([_drained(run) for run in hpa]),
            "idle": "never",
        },
        "KEDA": {
            "zero": _span(from_zero),
            "first": _span([each + start for each in from_zero]),
            "asked": _span([run.asked(most) - run.begin for run in keda]),
            "drained": _span([_drained(run) for run in keda]),
            "idle": _span([_idle(run) for run in keda]),
        },
    }


def _phases() -> list[float]:
    return [KEDA_POLL_SECONDS * number / PHASES + 0.1 for number in range(PHASES)]


def _run(controller: Hpa | Keda, replicas: int, phase: float, tasks: int) -> _Run:
    begin = BEGIN + phase
    load = Load(f"burst {phase}", "", begin + 1, bursts=((begin, tasks),), tail=1200.0)
    return _Run(begin, Simulation(load, controller, start=replicas).run())


def _drained(run: _Run) -> float:
    return max(at for at, n in run.trace.queue if n) - run.begin + simulation.RUN_SECONDS


def _idle(run: _Run) -> float:
    end = run.begin + _drained(run)
    return next(at for at, n in run.trace.changes if at > end and n == 0) - end


def _span(found: list[float]) -> str:
    low, high = min(found), max(found)
    return f"{low:.0f} s" if high - low < 1 else f"{low:.0f} to {high:.0f} s"
