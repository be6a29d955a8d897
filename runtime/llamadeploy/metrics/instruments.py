"""Counters and histograms in plain numbers, and samples as they are read from them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from enum import StrEnum

MAX_SERIES = 500
"""Label values that one instrument tells apart; later ones count together as ``OTHER``. Clients
may name services that nobody knows, and a series is never forgotten."""

OTHER = "(other)"

TASK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
"""Buckets for tasks: from an echo (5 ms) to what takes an hour."""

OPERATION_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Buckets for operations of the store: from a read in memory to a disk that stalls."""


class Kind(StrEnum):
    """Prometheus's types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's numbers: counts per bucket (the last one without a bound), and the sum."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


Sample = tuple[tuple[str, ...], float | Distribution]
"""Label values, and the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples, detached from what they were read from.

    Attributes:
        name: without the ``_total`` of a counter.
        samples: label values, in the order of ``labels``, with the value.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    samples: list[Sample] = field(default_factory=list)


class Counter:
    """Counts per tuple of label values."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        """One more."""
        key = labels if labels in self._values else _bounded(labels, self._values)
        self._values[key] = self._values.get(key, 0) + 1

    def from_zero(self, labels: Iterable[tuple[str, ...]]) -> list[tuple[tuple[str, ...], float]]:
        """What was counted, and 0 for those of ``labels`` that were not."""
        values = {**dict.fromkeys(labels, 0), **self._values}
        return [(key, float(value)) for key, value in values.items()]


class Histogram:
    """Distributions per one label value.

    Args:
        bounds: upper bounds of the buckets, ascending; a value on a bound is below it.
    """

    __slots__ = ("_bounds", "_counts", "_totals")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts: dict[str, list[int]] = {}
        self._totals: dict[str, float] = {}

    def observe(self, label: str, value: float) -> None:
        """Take in one value."""
        counts = self._counts.get(label)
        if counts is None:
            (label,) = _bounded((label,), self._counts)
            counts = self._counts.setdefault(label, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += 1
        self._totals[label] = self._totals.get(label, 0.0) + value

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], Distribution]]:
        return iter(
            [
                ((label,), Distribution(self._bounds, tuple(counts), self._totals[label]))
                for label, counts in self._counts.items()
            ]
        )


def _bounded(labels: tuple[str, ...], known: Sized) -> tuple[str, ...]:
    """The labels, or ``OTHER`` in place of the first where there are too many already."""
    return labels if len(known) < MAX_SERIES else (OTHER, *labels[1:])
