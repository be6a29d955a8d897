"""The operator's metrics, as a running operator shows them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from e2e.operator_process import Namespace, OperatorProcess, deployment, eventually

Start = Callable[..., OperatorProcess]

PREFIX = "llamadeploy_operator_"


def sample(operator: OperatorProcess, name: str, **labels: str) -> float:
    """Of one time series; KeyError where it is not there."""
    for family in text_string_to_metric_families(operator.fetch("/metrics")[1]):
        for each in family.samples:
            if each.name == PREFIX + name and labels.items() <= each.labels.items():
                return float(each.value)
    raise KeyError(name)


def test_each_metric_is_there_and_moves(space: Namespace, start_operator: Start) -> None:
    together = ("--namespace", space.name, "--lease-name", f"lease-{space.name}")
    operator = start_operator(*together, "--concurrency", "1")
    operator.wait_working()
    other = start_operator(*together)
    eventually(lambda: other.fetch("/healthz")[0] == 200, "the second waits")
    assert (sample(operator, "leader"), sample(other, "leader")) == (1, 0)

    # Silence makes a watch older, an event younger.
    watch = {"resource": "llamadeployments.llamadeploy.io", "namespace": space.name}
    eventually(lambda: sample(operator, "watch_age_seconds", **watch) > 1, "it is quiet")
    assert sample(operator, "queue_depth") == 0

    # Refused until a person allows it: errors, and another try.
    quota = f"/api/v1/namespaces/{space.name}/resourcequotas"
    body = {"metadata": {"name": "none"}, "spec": {"hard": {"count/secrets": "0"}}}
    space.api.request("POST", quota, body)
    eventually(lambda: space.api.request("GET", f"{quota}/none")["status"]["hard"], "it counts")
    space.create("ldep", deployment())
    eventually(
        lambda: sample(operator, "watch_age_seconds", **watch) < 1, "the event was seen", step=0.01
    )
    errors = {"kind": "Deployment"}
    eventually(lambda: sample(operator, "reconcile_errors_total", **errors) > 0, "it is refused")
    space.api.request("DELETE", f"{quota}/none")
    eventually(lambda: "d-internal" in space.names("secret"), "it is allowed", 60)

    for kind in ("Deployment", "WorkflowService"):
        labels = {"kind": kind}
        eventually(lambda k=labels: sample(operator, "reconcile_seconds_count", **k) > 0, kind)  # type: ignore[misc]
        assert sample(operator, "reconcile_seconds_sum", **labels) > 0

    for number in range(30):
        space.create("ldep", deployment(f"d{number}", services=[], defaultService=None))
    eventually(lambda: sample(operator, "queue_depth") > 0, "some wait", step=0.01)
    eventually(lambda: sample(operator, "queue_depth") == 0, "all were looked at", 60)
    # The one that waits has done nothing.
    assert other.metric(f"{PREFIX}reconcile_seconds_count") == 0
