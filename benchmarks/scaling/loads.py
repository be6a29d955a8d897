"""When tasks arrive: deterministic, from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SEED = 8


@dataclass(frozen=True)
class Load:
    """One kind of day.

    Attributes:
        seconds: how long tasks arrive.
        rate: tasks per second at a moment.
        peak: of the rate.
        bursts: moment and number of tasks that arrive at once.
        lag: how old a metric is when a controller sees it, in seconds.
        tail: seconds that are simulated after the last arrival.
    """

    name: str
    title: str
    seconds: float
    rate: Callable[[float], float] = lambda _: 0.0
    peak: float = 0.0
    bursts: tuple[tuple[float, int], ...] = ()
    lag: float = 0.0
    tail: float = 900.0
    marks: tuple[float, ...] = field(default=())

    def arrivals(self) -> Iterator[float]:
        """Moments, in order: a Poisson process of the rate (by thinning), and the bursts."""
        rng = random.Random(f"{SEED} {self.name}")
        bursts = [(at, count) for at, count in self.bursts]
        now = 0.0
        while True:
            now = now + rng.expovariate(self.peak) if self.peak else math.inf
            while bursts and bursts[0][0] <= now:
                at, count = bursts.pop(0)
                yield from (at for _ in range(count))
            if now > self.seconds:
                return
            if rng.random() * self.peak < self.rate(now):
                yield now


def _step(now: float) -> float:
    return 50.0 if 300 <= now < 1500 else 5.0


def _day(now: float) -> float:
    """Twenty-four hours in four: 1 task/s at night, 41 at noon."""
    return 21.0 - 20.0 * math.cos(2 * math.pi * now / 14_400)


LOADS = (
    Load("step", "Step: 5 to 50 tasks/s, and back after 20 min", 2400, _step, 50.0,
         marks=(300, 1500)),
    Load("lag", "The same step, seen 15 s late", 2400, _step, 50.0, lag=15.0, marks=(300, 1500)),
    Load("burst", "Bursts: 2,000 tasks at once, twice, and nothing else", 1500,
         bursts=((60.0, 2000), (1260.0, 2000)), marks=(60, 1260)),
    Load("diurnal", "A day in four hours: 1 to 41 tasks/s", 14_400, _day, 41.0),
    Load("steady", "Steady: 20 tasks/s for an hour", 3600, lambda _: 20.0, 20.0),
)  # fmt: skip
