"""What is measured of the operator."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.operator.stage import (
    SERVICES,
    USER,
    Stage,
    create_deployments,
    create_namespaces,
)
from e2e.cluster.audit import WRITES, Request
from e2e.operator_process import OperatorProcess

POLL_SECONDS = 1.0
QUIET_SECONDS = 5.0
"""Steady: for so long nothing is due and nothing was written."""
OWN_BUSINESS = frozenset({"leases", "events"})
"""Resources whose writes change nothing of what the operator keeps."""


@dataclass
class Figures:
    """All that one run gave; seconds and MiB.

    Attributes:
        creating, all_ready: from the first create to the last answer, and to the last Ready.
        applied: per Deployment, from the answer of its creation to the last first write of a child.
        ready: per Deployment, from its creation to its condition's transition (whole seconds).
        requests: the operator's API requests by verb and resource until everything is steady.
        requests_of_others: the same of everybody else (user, verb, resource), the 20 most frequent.
        reconciliations: of all resources until everything is steady.
        cpu: CPU seconds by process until everything is ready.
        memory_peak, memory_steady: resident memory of the operator, MiB.
        restart: from the start of a new process until it leads, has looked at every resource and
            has nothing left to do.
        restart_writes: what it wrote to get there, its Lease not counted.
    """

    count: int
    idle: float = 1.0
    creating: float = 0.0
    all_ready: float = 0.0
    applied: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    requests_of_others: dict[str, int] = field(default_factory=dict)
    reconciliations: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    pods: int = 0
    children: int = 0
    memory_peak: float = 0.0
    memory_steady: float = 0.0
    restart: float = 0.0
    restart_memory: float = 0.0
    restart_writes: dict[str, int] = field(default_factory=dict)

    @property
    def requests_per_resource(self) -> float:
        return sum(self.requests.values()) / self.count


class NotReady(Exception):
    """Something did not get there within its time."""


def measure(stage: Stage, count: int, limit: float) -> Figures:
    """Create ``count`` Deployments, wait, restart the operator, wait.

    Args:
        limit: seconds for all to become Ready.

    Raises:
        NotReady: they did not.
    """
    figures = Figures(count)
    create_namespaces(stage.api, count)
    operator = stage.operator()
    operator.start()
    try:
        operator.wait_working()
        _fill(stage, operator, figures, limit)
    finally:
        operator.stop()
    restarted = stage.operator()
    try:
        _restart(stage, restarted, figures)
    finally:
        restarted.stop()
    return figures


def _fill(stage: Stage, operator: OperatorProcess, figures: Figures, limit: float) -> None:
    count = figures.count
    stage.audit.mark()
    before = stage.cpu(operator)
    begun = time.monotonic()
    create_deployments(stage.api, count)
    figures.creating = time.monotonic() - begun
    while (ready := stage.ready()) < count:
        elapsed = time.monotonic() - begun
        say(f"{elapsed:4.0f} s: {ready} of {count} Ready, operator {memory(operator)[1]:.0f} MiB")
        if elapsed > limit:
            raise NotReady(f"{ready} of {count} are Ready after {limit:.0f} s\n{operator.tail()}")
        time.sleep(max(POLL_SECONDS, count / 500))
    figures.all_ready = time.monotonic() - begun
    figures.cpu = {name: used - before[name] for name, used in stage.cpu(operator).items()}
    wait_steady(operator, 180)
    figures.memory_peak, figures.memory_steady = memory(operator)
    figures.reconciliations = looked_at(operator)
    log = list(stage.audit.requests())
    mine = [item for item in log if item.user == USER and item.resource != "leases"]
    figures.requests = dict(Counter(f"{item.verb} {item.resource}" for item in mine).most_common())
    others = Counter(
        f"{item.user} {item.verb} {item.resource}" for item in log if item.user != USER
    )
    figures.requests_of_others = dict(others.most_common(20))
    bodies = stage.deployments()
    names = {(body["metadata"]["namespace"], body["metadata"]["name"]) for body in bodies}
    figures.applied, figures.children = applied(log, names)
    figures.ready = sorted(_until_ready(body) for body in bodies)
    figures.pods = len(stage.api.request("GET", "/api/v1/pods")["items"])


def _restart(stage: Stage, operator: OperatorProcess, figures: Figures) -> None:
    stage.audit.mark()
    begun = time.monotonic()
    operator.start()
    operator.wait_working()
    # Each Deployment and each of its services has been looked at.
    wanted = figures.count * (1 + len(SERVICES))
    while not (looked_at(operator) >= wanted and idle(operator)):
        if time.monotonic() - begun > 300:
            raise NotReady(f"restarted operator: {looked_at(operator)} of {wanted} looked at")
        time.sleep(0.1)
    figures.restart = time.monotonic() - begun
    wait_steady(operator, 60)
    figures.restart_memory = memory(operator)[0]
    writes = Counter(
        f"{item.verb} {item.resource}"
        for item in stage.audit.requests(user=USER, writes=True)
        if item.resource != "leases"
    )
    figures.restart_writes = dict(writes)


def idle(operator: OperatorProcess) -> bool:
    """Nothing waits to be reconciled; False too when a busy operator does not answer in time."""
    try:
        return operator.metric("llamadeploy_operator_queue_depth") == 0
    except KeyError:
        return False


def looked_at(operator: OperatorProcess) -> float:
    """Reconciliations until now; -1 when a busy operator does not answer in time."""
    try:
        return operator.reconciled()
    except KeyError:
        return -1.0


def wait_steady(operator: OperatorProcess, limit: float) -> None:
    """Until nothing has been reconciled for :data:`QUIET_SECONDS`."""
    deadline = time.monotonic() + limit
    seen, since = -1.0, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        if (now := looked_at(operator)) != seen or not idle(operator):
            seen, since = now, time.monotonic()
        if time.monotonic() > deadline:
            raise NotReady(f"not steady after {limit:.0f} s\n{operator.tail()}")
        time.sleep(0.2)


def applied(log: Iterable[Request], names: set[tuple[str, str]]) -> tuple[list[float], int]:
    """Per Deployment the seconds from its creation to its last new child, ascending, and the
    number of children of all.

    A child is told by its name, which begins with the Deployment's, and a new one by the answer
    201. Events and the Lease are no children.
    """
    created: dict[tuple[str, str], float] = {}
    last: dict[tuple[str, str], float] = {}
    children = 0
    for item in log:
        if item.status != 201 or item.verb not in WRITES:
            continue
        if item.resource == "llamadeployments":
            created[item.namespace, item.name] = item.time
        elif item.user == USER and item.resource not in OWN_BUSINESS:
            key = item.namespace, item.name.partition("-")[0]
            if key in names:
                last[key] = max(item.time, last.get(key, 0.0))
                children += 1
    missing = names - last.keys()
    if missing:
        raise NotReady(f"{len(missing)} Deployments have no children, such as {min(missing)}")
    return sorted(last[key] - created[key] for key in names), children


def _until_ready(body: dict[str, Any]) -> float:
    condition = next(item for item in body["status"]["conditions"] if item["type"] == "Ready")
    return _seconds(condition["lastTransitionTime"]) - _seconds(
        body["metadata"]["creationTimestamp"]
    )


def _seconds(stamp: str) -> float:
    return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def memory(operator: OperatorProcess) -> tuple[float, float]:
    """Resident memory of the operator in MiB: its peak, and now."""
    text = Path(f"/proc/{operator.pid}/status").read_text()
    found = dict(re.findall(r"^(VmHWM|VmRSS):\s+(\d+) kB$", text, re.MULTILINE))
    return int(found["VmHWM"]) / 1024, int(found["VmRSS"]) / 1024


def percentile(values: list[float], percent: int) -> float:
    """Of ascending values."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)
