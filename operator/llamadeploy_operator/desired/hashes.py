"""Which hashes a workload's pods are marked with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.desired.addresses import INDEX_URL, addresses
from llamadeploy_operator.desired.consumed import of_connections, of_overlay
from llamadeploy_operator.desired.context import Consumed, LiveWorkload
from llamadeploy_operator.desired.plain import digest
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import consumed_annotation


def connection_hashes(plan: Plan, hashes: Mapping[Consumed, str | None]) -> dict[str, str | None]:
    """Of what every process of the deployment reads."""
    found = dict(_of(of_connections(plan.spec), hashes))
    values = addresses(plan)
    values.pop(INDEX_URL, None)  # read when packages are installed; it changes nothing of them
    if values:
        # Seeded with the uid: the same password elsewhere has another hash.
        name = names.addresses_secret(plan.owner.name)
        found[f"Secret/{name}"] = digest([plan.owner.uid, values])[:16]
    return found


def component_annotations(
    found: Mapping[str, str | None],
    more: Iterable[Consumed],
    overlay: Mapping[str, Any] | None,
    hashes: Mapping[Consumed, str | None],
    live: LiveWorkload | None,
) -> dict[str, str]:
    """The annotation of a workload that reads ``found``, ``more`` and what its overlay names."""
    all_ = {**found, **dict(_of(more, hashes)), **dict(_of(of_overlay(overlay), hashes))}
    return consumed_annotation(all_, live)


def _of(
    wanted: Iterable[Consumed], hashes: Mapping[Consumed, str | None]
) -> Iterator[tuple[str, str | None]]:
    for each in wanted:
        yield f"{each.kind}/{each.name}", hashes.get(each)
