"""Families as Prometheus (or OpenMetrics) text; the one user of the Prometheus library."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from llamadeploy.metrics.deployment import Collect
from llamadeploy.metrics.instruments import Distribution, Family, Kind


async def scrape(collect: Collect, accept: str = "") -> tuple[bytes, str]:
    """Ask for the families and write them; returns the text and its media type.

    Args:
        accept: the request's ``Accept``; OpenMetrics is written where it is asked for.
    """
    families = await collect()
    # On a thread: ten deployments are thousands of lines.
    return await asyncio.to_thread(render, families, accept)


def render(families: Sequence[Family], accept: str = "") -> tuple[bytes, str]:
    """The text and its media type; families of one name become one. With the process's memory,
    CPU time and open files by the names that every Prometheus client has."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class _Families(Collector):
        def collect(self) -> Iterator[object]:  # type: ignore[override]
            return map(_written, _merged(families))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families())
    ProcessCollector(registry=registry)
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def _merged(families: Iterable[Family]) -> list[Family]:
    found: dict[str, Family] = {}
    for each in families:
        first = found.setdefault(each.name, Family(each.name, each.kind, each.help, each.labels))
        first.samples.extend(each.samples)
    return list(found.values())


def _written(family: Family) -> object:
    from prometheus_client import core

    kinds = {
        Kind.COUNTER: core.CounterMetricFamily,
        Kind.GAUGE: core.GaugeMetricFamily,
        Kind.HISTOGRAM: core.HistogramMetricFamily,
    }
    written = kinds[family.kind](family.name, family.help, labels=family.labels)
    for labels, value in family.samples:
        if isinstance(value, Distribution):
            written.add_metric(labels, buckets=_buckets(value), sum_value=value.total)
        else:
            written.add_metric(labels, value)
    return written


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    bounds = [*(repr(float(bound)) for bound in value.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(value.counts)), strict=True))
