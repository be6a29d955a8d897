"""Instruments alone: buckets, bounds on series, and what one observation costs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from llamadeploy.metrics.deployment import DeploymentMetrics
from llamadeploy.metrics.exposition import render
from llamadeploy.metrics.instruments import MAX_SERIES, OTHER, Counter, Family, Histogram, Kind


def test_values_fall_into_the_bucket_whose_bound_is_not_below_them(read: Any) -> None:
    histogram = Histogram((0.1, 1, 10))
    for value in (0.0, 0.1, 0.100001, 1.0, 9.0, 11.0, 1e9):
        histogram.observe("a", value)
    family = Family("llamadeploy_x_seconds", Kind.HISTOGRAM, "Test", ("service",), [*histogram])
    samples = read(render([family])[0].decode())
    for bound, count in (("0.1", 2), ("1.0", 4), ("10.0", 5), ("+Inf", 7)):
        assert samples("x_seconds_bucket", service="a", le=bound) == count
    assert samples("x_seconds_count", service="a") == 7
    assert samples("x_seconds_sum", service="a") == pytest.approx(1e9 + 21.200001)


def test_a_flood_of_labels_ends_in_one_series() -> None:
    """Clients may name services that nobody knows; each would stay for ever."""
    counter, histogram = Counter(), Histogram((1,))
    for number in range(MAX_SERIES + 100):
        counter.add(f"service{number}", "failed")
        histogram.observe(f"service{number}", 0.5)
    counter.add("service0", "failed")
    counted = dict(counter.from_zero([]))
    assert len(counted) == MAX_SERIES + 1
    assert counted[(OTHER, "failed")] == 100 and counted[("service0", "failed")] == 2
    measured = dict(histogram)
    assert len(measured) == MAX_SERIES + 1
    assert sum(each.counts[0] for each in measured.values()) == MAX_SERIES + 100


def test_families_of_one_name_become_one(read: Any) -> None:
    parts = [
        Family("llamadeploy_t", Kind.GAUGE, "Test", ("deployment",), [((name,), 1.0)])
        for name in ("one", "two")
    ]
    text = render(parts)[0].decode()
    assert text.count("# TYPE llamadeploy_t gauge") == 1
    assert read(text)("t") == 2


def test_odd_names_are_escaped(read: Any) -> None:
    name = 'a"b\\c\nd'
    family = Family("llamadeploy_t", Kind.COUNTER, "Test", ("service",), [((name,), 3.0)])
    assert read(render([family])[0].decode())("t_total", service=name) == 3


def test_a_task_costs_microseconds() -> None:
    """What the observer is told of one echo task: eight operations, start, end, result. 20 us is
    1 % of the 2 ms that a task takes on one core."""
    metrics = DeploymentMetrics("d")
    operations = ("create_task", "start", "get_task", "append_events", "finish", "outbox_done",
                  "get_task", "delete_session")  # fmt: skip

    def task(number: int) -> None:
        task_id = str(number)
        for name in operations:
            metrics.operation(name, 0.001)
        metrics.started("echo", task_id, 0.01)
        metrics.ran("echo", task_id)
        metrics.ended("echo", task_id, "succeeded")

    best = min(_seconds(task, 2000) for _ in range(5)) / 2000
    assert best < 20e-6, f"{best * 1e6:.1f} us per task"


def test_the_library_is_loaded_at_the_first_scrape() -> None:
    program = (
        "import sys, llamadeploy.api_server.process, llamadeploy.control_plane.process,"
        " llamadeploy.worker.process; assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def _seconds(function: Any, times: int) -> float:
    begin = time.perf_counter()
    for number in range(times):
        function(number)
    return time.perf_counter() - begin
