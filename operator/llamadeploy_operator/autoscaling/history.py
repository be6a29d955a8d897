"""What was recommended, done and seen lately: as much of it as the windows need."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamadeploy_operator.autoscaling.policy import RatePolicy, Rules
from llamadeploy_operator.autoscaling.reading import Reading

PACE_SECONDS = 15.0
"""How far back a queue's pace is taken from: some readings, and not yet another load."""
MEAN_SECONDS = 60.0
"""What the mean of the running tasks is of: long enough for chance to even out."""
_SAMPLE_SECONDS = 1.0
"""Two samples of the pace lie at least this far apart."""


@dataclass(frozen=True, slots=True)
class At:
    """A count at a moment (seconds since 1970)."""

    at: float
    count: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What a pace and a mean are computed of."""

    at: float
    ready: int
    running: int
    oldest_seconds: float
    working: int


@dataclass(frozen=True, slots=True)
class History:
    """Immutable: each decision gives the next one. The empty one is that of a new service.

    Its size is bounded: of recommendations only those are kept that may still become the highest
    or the lowest of a window, which are fewer than there are different counts; of changes and
    samples one per second of the longest period.

    Attributes:
        highs: recommendations, oldest first, each lower than the one before.
        lows: the same, each higher than the one before.
        ups: replicas added.
        downs: replicas removed.
    """

    highs: tuple[At, ...] = ()
    lows: tuple[At, ...] = ()
    ups: tuple[At, ...] = ()
    downs: tuple[At, ...] = ()
    samples: tuple[Sample, ...] = ()

    def highest(self, now: float, seconds: float) -> int | None:
        """The highest recommendation of the last seconds."""
        return _first(self.highs, now, seconds)

    def lowest(self, now: float, seconds: float) -> int | None:
        """The lowest one."""
        return _first(self.lows, now, seconds)

    def mean_running(self, reading: Reading) -> float:
        """Tasks in work, over the time since the first sample; each holds until the next one."""
        if not self.samples or reading.at <= self.samples[0].at:
            return float(reading.running)
        ends = [each.at for each in self.samples[1:]] + [reading.at]
        held = zip(self.samples, ends, strict=True)
        total = sum(each.running * (end - each.at) for each, end in held)
        return total / (reading.at - self.samples[0].at)

    def highest_leaves(self, now: float, seconds: float) -> float:
        """In how many seconds the highest recommendation has left the window."""
        return next((each.at + seconds - now for each in self.highs if each.at > now - seconds), 0)

    def changed(self, now: float, policy: RatePolicy) -> int:
        """Replicas added without those removed, within a policy's period."""
        cutoff = now - policy.period_seconds
        added = sum(each.count for each in self.ups if each.at > cutoff)
        return added - sum(each.count for each in self.downs if each.at > cutoff)

    def recommend(self, count: int, now: float, up: Rules, down: Rules) -> History:
        """With one more recommendation."""
        entry = At(now, count)
        highs = (*(each for each in self.highs if each.count > count), entry)
        lows = (*(each for each in self.lows if each.count < count), entry)
        return replace(
            self,
            highs=_since(highs, now - down.stabilization_seconds),
            lows=_since(lows, now - up.stabilization_seconds),
        )

    def change(self, by: int, now: float, up: Rules, down: Rules) -> History:
        """With one more change of the replicas, and without what no period reaches."""
        cutoff = now - max(
            (each.period_seconds for each in (*up.policies, *down.policies)), default=0
        )
        ups = tuple(each for each in self.ups if each.at > cutoff)
        downs = tuple(each for each in self.downs if each.at > cutoff)
        if by > 0:
            ups = _added(ups, At(now, by))
        elif by < 0:
            downs = _added(downs, At(now, -by))
        return replace(self, ups=ups, downs=downs)

    def see(self, reading: Reading) -> History:
        """With one more reading."""
        kept = tuple(each for each in self.samples if 0 <= reading.at - each.at <= MEAN_SECONDS)
        if kept and reading.at - kept[-1].at < _SAMPLE_SECONDS:
            return replace(self, samples=kept)
        sample = Sample(
            reading.at, reading.ready, reading.running, reading.oldest_seconds, reading.working
        )
        return replace(self, samples=(*kept, sample))


def _first(entries: tuple[At, ...], now: float, seconds: float) -> int | None:
    """The first entry in the window: they are sorted so that it is the extreme one. Where the last
    look was longer ago, what it gave is still in force."""
    if seconds <= 0 or not entries:
        return None
    return next((each.count for each in entries if each.at > now - seconds), entries[-1].count)


def _since(entries: tuple[At, ...], cutoff: float) -> tuple[At, ...]:
    """Without those before the cutoff, but with the last one."""
    return (*(each for each in entries[:-1] if each.at > cutoff), entries[-1])


def _added(entries: tuple[At, ...], entry: At) -> tuple[At, ...]:
    """Those of one second are one entry, of the later moment."""
    if entries and int(entries[-1].at) == int(entry.at):
        return (*entries[:-1], At(entry.at, entries[-1].count + entry.count))
    return (*entries, entry)
