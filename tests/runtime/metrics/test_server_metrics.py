"""The metrics of a running server against what a test did to it: every number is exact."""

from __future__ import annotations

import os
import re
import signal
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

WORKFLOWS = """
import asyncio, os, pathlib
from workflows import Workflow, step
from workflows.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent

class Echo(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="echo")

class Fail(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no good")

class Ask(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)

class Gate(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        while not pathlib.Path(ev.gate).exists():
            await asyncio.sleep(0.02)
        return StopEvent(result="opened")

class Doomed(Workflow):
    @step
    async def run_(self, ev: StartEvent) -> StopEvent:
        os._exit(7)

echo, fail, ask, gate, doomed = Echo(), Fail(), Ask(), Gate(), Doomed()
"""


class Watched:
    """A server, and scrapes of it."""

    def __init__(self, server: Any, project: Path, read: Callable[[str], Any]) -> None:
        self.server = server
        self.project = project
        self._read = read
        self.wait_until = server.wait_until

    def scrape(self) -> Any:
        reply = self.server.get("/status/metrics")
        assert reply.status == 200, reply
        return self._read(reply.body)

    def becomes(self, expected: float, name: str, **labels: str) -> None:
        """Wait until a sample has a value, which others must not wait for."""
        self.wait_until(
            lambda: self.scrape()(name, **labels) == expected, f"{name} {labels} is {expected}"
        )

    def deploy(self, name: str, *services: str, **options: Any) -> None:
        reply = self.server.create(self.server.deployment(name, *services, **options), self.project)
        assert reply.status == 200, reply


@pytest.fixture(scope="module")
def watched(
    start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, read: Any
) -> Watched:
    """A server with the deployment ``one``; each test here has a service of its own."""
    project = tmp_path_factory.mktemp("project")
    (project / "src").mkdir()
    (project / "src" / "workflow.py").write_text(textwrap.dedent(WORKFLOWS))
    watched = Watched(start_server(), project, read)
    watched.deploy(
        "one", "echo", "fail", "ask", "gate", "doomed",
        gate={"max-concurrent-tasks": 1}, doomed={"max-retries": 0},
    )  # fmt: skip
    return watched


def test_results_are_counted_by_service_and_outcome(watched: Watched) -> None:
    before = watched.scrape()
    for outcome in ("succeeded", "failed", "cancelled"):
        assert before("tasks_total", service="echo", outcome=outcome) == 0
    for _ in range(5):
        assert watched.server.run("one", "echo").body == "echo"
    for _ in range(2):
        assert "no good" in watched.server.run("one", "fail").body
    after = watched.scrape()
    assert after("tasks_total", deployment="one", service="echo", outcome="succeeded") == 5
    assert after("tasks_total", service="echo") == 5
    assert after("tasks_total", service="fail", outcome="failed") == 2
    assert after("tasks_total", service="fail") == 2
    for name in ("task_wait_seconds", "task_run_seconds"):
        assert after(f"{name}_count", service="echo") == 5
        assert after(f"{name}_bucket", service="echo", le="+Inf") == 5
        assert 0 < after(f"{name}_sum", service="echo") < 5
    assert after("dead_letters_total", service="fail") == 0, "an error of the workflow is a result"
    assert after("redeliveries_total", service="fail") == 0


def test_a_waiting_task_is_parked_and_counted_once(watched: Watched) -> None:
    task = watched.server.start_task("one", "ask")
    watched.becomes(1, "tasks_parked", deployment="one")
    parked = watched.scrape()
    assert parked("tasks_in_flight", deployment="one") == 0
    assert parked("task_run_seconds_count", service="ask") == 1
    path = f"/deployments/one/tasks/{task['task_id']}/events"
    value = (
        '{"__is_pydantic": true, "value": {"response": "yes"},'
        ' "qualified_name": "workflows.events.HumanResponseEvent"}'
    )
    event = {"service_id": "ask", "event_obj_str": value}
    assert watched.server.post(path, event).status == 200
    assert watched.server.result("one", task)["result"] == "yes"
    after = watched.scrape()
    assert after("tasks_parked", deployment="one") == 0
    assert after("tasks_total", service="ask", outcome="succeeded") == 1
    assert after("task_run_seconds_count", service="ask") == 2, "once until it waited, once after"
    assert after("task_wait_seconds_count", service="ask") == 1


def test_a_killed_worker_is_restarted_and_its_task_redelivered(
    watched: Watched, tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")
    first = watched.server.start_task("one", "gate", gate=gate)
    watched.becomes(1, "tasks_in_flight", deployment="one")
    second = watched.server.start_task("one", "gate", gate=gate)
    watched.becomes(1, "queue_depth", service="gate", state="ready")
    busy = watched.scrape()
    assert busy("queue_depth", service="gate", state="unacked") == 1
    assert busy("tasks_queued", deployment="one") == 1
    assert busy("redeliveries_total", service="gate") == 0
    (worker,) = watched.server.service("one", "gate")["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    watched.becomes(1, "redeliveries_total", service="gate")
    watched.becomes(1, "worker_restarts_total", service="gate")
    Path(gate).touch()
    for task in (first, second):
        assert watched.server.result("one", task)["result"] == "opened"
    watched.becomes(0, "outbox_tasks", deployment="one")
    watched.becomes(0, "queue_depth", service="gate")
    after = watched.scrape()
    assert after("tasks_total", service="gate", outcome="succeeded") == 2
    assert after("redeliveries_total", service="gate") == 1, "the second had not been started"
    assert after("task_run_seconds_count", service="gate") == 2, "a lost attempt has no end"
    assert after("worker_restarts_total", service="gate", replica="gate-0") == 1
    assert after("worker_restarts_total", service="echo") == 0
    assert after("tasks_in_flight", deployment="one") == 0


def test_a_task_that_kills_its_worker_is_a_dead_letter(watched: Watched) -> None:
    assert "was lost" in watched.server.run("one", "doomed").body
    after = watched.scrape()
    assert after("dead_letters_total", service="doomed") == 1
    assert after("tasks_total", service="doomed", outcome="failed") == 1
    assert after("redeliveries_total", service="doomed") == 0
    assert after("dead_letters_total", deployment="one") == 1


def test_a_cancelled_task_is_counted(watched: Watched, tmp_path: Path) -> None:
    before = watched.scrape()("task_run_seconds_count", deployment="one")
    task = watched.server.start_task("one", "gate", gate=str(tmp_path / "never"))
    watched.becomes(1, "tasks_in_flight", deployment="one")
    reply = watched.server.post(f"/deployments/one/tasks/{task['task_id']}/cancel")
    assert reply.body["outcome"] == "cancelled"
    after = watched.scrape()
    assert after("tasks_total", service="gate", outcome="cancelled") == 1
    assert after("tasks_in_flight", deployment="one") == 0
    assert after("task_run_seconds_count", deployment="one") == before


def test_deployments_are_told_apart(watched: Watched) -> None:
    watched.deploy("two", "echo")
    assert watched.server.run("two", "echo").status == 200
    both = watched.scrape()
    assert both("tasks_total", deployment="two") == 1
    assert both("tasks_total", deployment="one", service="echo") >= 0
    assert both.label("tasks_parked", "deployment") == {"one", "two"}
    assert 'deployment_state{deployment_name="two",deployment_state="running"} 1.0' in both.text
    plane = watched.server.details("two")["control_plane"]["url"]
    alone = watched._read(watched.server.get(f"{plane}/metrics").body)
    assert alone.label("tasks_parked", "deployment") == {"two"}
    assert alone("tasks_total", service="echo", outcome="succeeded") == 1
    assert watched.server.request("DELETE", "/deployments/two").status == 200
    assert watched.scrape().label("tasks_parked", "deployment") == {"one"}


def test_openmetrics_is_served_where_it_is_asked_for(watched: Watched) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    reply = watched.server.get("/status/metrics", headers={"Accept": accept})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in text_string_to_metric_families(reply.body)}
    assert {"llamadeploy_tasks", "llamadeploy_queue_depth"} <= names


def test_the_text_is_well_formed(watched: Watched) -> None:
    """What ``promtool check metrics`` looks at."""
    scrape = watched.scrape()
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for family in scrape.families:
        assert family.documentation and family.type != "unknown", family.name
        assert scrape.text.count(f"# TYPE {_typed(family)} ") == 1, family.name
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            assert series not in seen
            seen.add(series)
            assert re.fullmatch(r"[a-z_:][a-z0-9_:]*", sample.name)
        if family.type == "histogram":
            _check_histogram(family)
    assert scrape("store_operation_seconds_count", deployment="one", operation="create_task") > 0


def _typed(family: Any) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def _check_histogram(family: Any) -> None:
    buckets: dict[tuple[Any, ...], list[float]] = {}
    counts = {}
    for sample in family.samples:
        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(labels, []).append(sample.value)
        elif sample.name.endswith("_count"):
            counts[labels] = sample.value
    assert buckets.keys() == counts.keys()
    for labels, values in buckets.items():
        assert values == sorted(values) and values[-1] == counts[labels]


def test_every_metric_is_documented(watched: Watched) -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    names = [family.name for family in watched.scrape().families]
    ours = [name for name in names if not name.startswith("process_")]
    assert len(ours) >= 13
    for name in ours:
        assert f"`{name.removeprefix('llamadeploy_')}" in text, name


def test_gauges_survive_a_restart_of_the_server(
    watched: Watched, start_server: Callable[..., Any], tmp_path: Path, read: Any
) -> None:
    """They are read from the store; counters begin anew, as Prometheus expects of them."""
    server = start_server(tmp_path / "data")
    other = Watched(server, watched.project, read)
    other.deploy("again", "ask")
    server.start_task("again", "ask")
    other.becomes(1, "tasks_parked", deployment="again")
    assert server.stop() == 0
    other.server = start_server(tmp_path / "data")
    other.becomes(1, "tasks_parked", deployment="again")
    assert other.scrape()("tasks_total", deployment="again") == 0
    assert other.scrape()("worker_restarts_total", deployment="again") == 0


def test_metrics_can_be_disabled(start_server: Callable[..., Any]) -> None:
    server = start_server(env={"LLAMA_DEPLOY_APISERVER_PROMETHEUS_ENABLED": "false"})
    reply = server.get("/status/metrics")
    assert (reply.status, reply.body) == (204, None)
    assert server.get("/metrics").status == 404


def test_metrics_have_a_port_of_their_own_where_one_is_set(
    start_server: Callable[..., Any], read: Any
) -> None:
    server = start_server(env={"LLAMA_DEPLOY_APISERVER_PROMETHEUS_PORT": "0"})
    found = server.wait_until(
        lambda: re.search(r"metrics are served at (http://127\.0\.0\.1:\d+)", server.tail()),
        "the port is announced",
    )
    assert found[1] != server.url
    for path in ("/", "/metrics"):
        reply = server.get(found[1] + path)
        assert reply.status == 200 and "process_resident_memory_bytes" in reply.body
