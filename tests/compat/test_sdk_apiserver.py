"""The `apiserver` half of the original SDK, async and `.sync`, against the server under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.compat

STREAM = [{"count": 0}, {"count": 1}, {"count": 2}, {"_data": {"note": "dynamic"}}, {}]


@pytest.fixture(scope="module", params=["async", "sync"])
def value(request: pytest.FixtureRequest, drive: Callable[..., Any]) -> Callable[[str], Any]:
    """`value(step)`: what a step of the driver returned; its traceback fails the test."""
    results = drive("sdk_apiserver", sync=request.param == "sync")

    def get(step: str) -> Any:
        assert "error" not in results[step], results[step]["error"]
        return results[step]["value"]

    return get


@pytest.fixture(scope="module")
def async_value(drive: Callable[..., Any]) -> Callable[[str], Any]:
    results = drive("sdk_apiserver_streams")

    def get(step: str) -> Any:
        assert "error" not in results[step], results[step]["error"]
        return results[step]["value"]

    return get


def test_status(value: Callable[[str], Any]) -> None:
    status = value("status")
    assert status["status"] == "Healthy"
    assert status["status_message"] == (
        "LlamaDeploy is up and running.\nActive deployments:\n- compat"
    )


def test_get_a_deployment(value: Callable[[str], Any]) -> None:
    assert value("deployment_get") == "compat"
    assert value("deployment_get_unknown") == [404, {"detail": "Deployment not found"}]


def test_list_of_deployments_is_what_the_sdk_expects_to_stumble_over(
    value: Callable[[str], Any],
) -> None:
    """`deployments.list()` of 0.8.1 cannot parse the reply of its own server: same reply here."""
    assert value("deployments_list") == [{"name": "compat"}]


def test_run(value: Callable[[str], Any]) -> None:
    assert value("run_default_service") == "echo: default"
    assert value("run_named_service") == "llama-index: named"
    assert value("run_unknown_service") == 404


def test_failure_is_a_result(value: Callable[[str], Any]) -> None:
    assert value("run_failing_service").endswith("no luck")
    result = value("failed_task_results")
    assert result["result"].endswith("no luck")
    assert result["history"] == []


def test_a_reused_definition_runs_twice(value: Callable[[str], Any]) -> None:
    assert value("run_same_definition_twice") == ["echo: again", "echo: again"]


def test_context_survives_between_tasks_of_a_session(value: Callable[[str], Any]) -> None:
    assert value("context_survives_in_session") == ["1", "2", "3", "1"]


def test_run_without_session_leaves_none_behind(value: Callable[[str], Any]) -> None:
    assert value("run_leaves_no_session") == 0


def test_create_and_results(value: Callable[[str], Any]) -> None:
    created = value("create_and_results")
    task_id, session_id, deployment = created["ids"]
    assert deployment == "compat"
    assert session_id
    assert created["result"]["task_id"] == task_id
    assert created["result"]["result"] == "echo: later"
    assert value("results_before_the_end") == ["not ready", "slept"]


def test_list_of_tasks_is_what_the_sdk_stumbles_over(value: Callable[[str], Any]) -> None:
    """`tasks.list()` of 0.8.1 fails on the reply of its own server: same reply here."""
    assert value("tasks_list") == "'dict' object has no attribute 'task_id'"


@pytest.mark.original_differs("a result overtakes the tail of its stream", strict=False)
def test_events(value: Callable[[str], Any]) -> None:
    assert value("events") == STREAM
    first, second = value("events_replay")
    assert first == second == [*STREAM[:2], *STREAM[3:]]


def test_sessions(value: Callable[[str], Any]) -> None:
    seen = value("sessions")
    created = seen["created"]
    assert created["task_ids"] == []
    assert created["state"] == {}
    assert created in seen["listed"]
    assert seen["deleted_again"] is None
    assert created not in seen["left"]


def test_answer_to_a_task(value: Callable[[str], Any]) -> None:
    seen = value("answer_to_a_step")
    assert seen["echoed"]["service_id"] == "ask"
    assert "HumanResponseEvent" in seen["echoed"]["event_obj_str"]
    assert seen["result"] == "You are 42"


@pytest.mark.original_differs("a result overtakes the tail of its stream", strict=False)
def test_human_in_the_loop_over_the_stream(async_value: Callable[[str], Any]) -> None:
    assert async_value("answer_after_the_question") == {
        "ask": {"lines": [{"_data": {"prefix": "How old are you?"}}, {}], "result": "You are 42"},
        "wait": {"lines": [{"_data": {"prefix": "Go on?"}}, {}], "result": "You said 42"},
    }


@pytest.mark.original_differs("an idle stream runs into the SDK's read time-out of 5 s")
def test_an_idle_stream_is_kept_alive(async_value: Callable[[str], Any]) -> None:
    assert async_value("idle_stream") == [{}]
