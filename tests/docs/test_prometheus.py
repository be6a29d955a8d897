"""A real Prometheus scrapes a real server under load: examples, alerts and dashboard answer."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from llamadeploy import TaskDefinition
from llamadeploy_operator import metrics as operator_metrics

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "metrics.md").read_text()
NAMES, EXAMPLES = (
    TEXT.split(head)[1].split("\n## ")[0] for head in ("## Names", "## Alerts and questions")
)
ROW = re.compile(r"(?m)^\| (`.+?`(?:, `.+?`)*) \| `(.+?)` \|")
EXPRESSIONS = {names.strip("`"): expression for names, expression in ROW.findall(EXAMPLES)}
CHART = ROOT / "helm" / "llamadeploy-operator"

WORKFLOW = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent, InputRequiredEvent, HumanResponseEvent

class Work(Workflow):
    @step
    async def work(self, ev: StartEvent) -> StopEvent | InputRequiredEvent:
        if ev.do == "fail":
            raise ValueError("asked for")
        return InputRequiredEvent() if ev.do == "ask" else StopEvent(result="done")

    @step
    async def go_on(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result="answered")

work = Work()
"""
FILE = """
name: watched
control-plane: {}
default-service: work
services:
  work: {name: Work, source: {type: local, name: src}, path: "work:work"}
"""


def test_every_metric_has_an_example() -> None:
    named = {
        name
        for line in NAMES.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    operators = {
        name.removeprefix("llamadeploy_")
        for metric in vars(operator_metrics).values()
        if isinstance(metric, MetricWrapperBase)
        for about in metric.describe()
        for name in [about.name + ("_total" if about.type == "counter" else "")]
    }
    assert len(named) >= 16 and len(operators) >= 5
    assert set(EXPRESSIONS) == named | operators | {"deployment_state"}
    for name, expression in EXPRESSIONS.items():
        assert name in expression, f"the example of {name} is one of something else"


def alerts(helm: Path, home: Path) -> list[dict[str, Any]]:
    """The groups of the chart's PrometheusRule; no ``for``, so that they fire at once."""
    done = subprocess.run(
        [helm, "template", "r", CHART, "--show-only", "templates/alerts.yaml",
         "--set", "metrics.prometheusRule.enabled=true"],
        env={"HOME": str(home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    groups: list[dict[str, Any]] = yaml.safe_load(done.stdout)["spec"]["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule.pop("for", None)
    return groups


def dashboard_queries() -> list[str]:
    """Of every panel, for all namespaces and deployments."""
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    found = [each.replace("$__rate_interval", "1m").replace("$__range", "1m") for each in found]
    return [re.sub(r"\$\{?\w+(:\w+)?\}?", ".*", each) for each in found]


@pytest.mark.timeout(300)
def test_examples_alerts_and_dashboard_on_real_metrics(
    serve: Any, prometheus: Callable[..., Any], helm: Path, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "work.py").write_text(WORKFLOW)
    (tmp_path / "deployment.yaml").write_text(FILE)
    with serve(tmp_path / "data", tmp_path / "deployment.yaml") as server:
        own = {"name": "page", "rules": []}
        for name, expression in EXPRESSIONS.items():
            own["rules"].append({"alert": name, "expr": expression})
        rules = [*alerts(helm, tmp_path), own]
        watching = prometheus([urlsplit(server.url).netloc], rules)
        count = "sum(llamadeploy_tasks_total)"
        watching.until(lambda: value(watching, count) == 0)
        deployment = server.deployment("watched")
        for do in ["work"] * 20 + ["fail"] * 10 + ["ask"]:
            task = TaskDefinition(input=json.dumps({"do": do}))
            if do == "ask":
                deployment.tasks.create(task)
            else:
                deployment.tasks.run(task)
        watching.until(lambda: value(watching, count) == 30)
        watching.until(lambda: value(watching, "sum(llamadeploy_tasks_parked)") == 1)
        check_examples(watching)
        queries = dashboard_queries()
        assert len(queries) >= 15
        answered = [query for query in queries if watching.query(query)]
        assert len(answered) >= len(queries) // 3, "most panels of a server's metrics are empty"
        draw(watching, tmp_path / "picture.svg")
        watching.until(lambda: watching.alerts().get("tasks_total") == "firing")
        firing = watching.alerts()
        assert firing["LlamaDeployOperatorWithoutLeader"] == "firing", "no operator is scraped"
        assert "LlamaDeployDeadLetters" not in firing
        assert "LlamaDeployQueueTakesNothing" not in firing


def draw(watching: Any, picture: Path) -> None:
    """As ``python -m benchmarks.observed`` does, which has a longer run."""
    from benchmarks import observed  # it brings matplotlib

    end = time.time()
    found = {
        panel.title: (panel.unit, lines)
        for panel in observed.panels()
        if (lines := observed.series(watching, panel, end - 30, end))
    }
    assert {"Tasks ended by outcome", "Tasks by state"} <= set(found)
    ended = found["Tasks ended by outcome"][1]
    assert max(ended["succeeded"][1]) > max(ended["failed"][1]) > 0
    observed.plot(found, [(0, "all")], picture)
    assert all(title in picture.read_text() for title in found)


def check_examples(watching: Any) -> None:
    """Each is an expression, and those of what a server without workers' own ports has answer."""
    bare = {
        name: re.sub(r" (?:>|<|==) [\d.]+(?= |$)", "", expression)
        for name, expression in EXPRESSIONS.items()
    }
    silent: set[str] = set()

    def answered() -> bool:
        silent.clear()
        silent.update(
            name
            for name, expression in bare.items()
            if not name.startswith(("worker_", "operator_", "autoscaler_"))
            and not watching.query(expression)
        )
        return not silent

    try:
        watching.until(answered)  # a rate needs two readings
    except AssertionError:
        pytest.fail(f"without an answer: {sorted(silent)}")
    (failed,) = watching.query(re.sub(r" > .*", "", EXPRESSIONS["tasks_total"]))
    assert 0.25 < float(failed["value"][1]) < 0.45, "ten of thirty tasks failed"


def value(watching: Any, expression: str) -> float | None:
    found = watching.query(expression)
    return float(found[0]["value"][1]) if found else None
