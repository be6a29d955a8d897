"""The `core` half of the original SDK, async and `.sync`, against the control plane under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def results(drive: Callable[..., Any]) -> dict[str, Any]:
    return {"async": drive("sdk_core"), "sync": drive("sdk_core", sync=True)}


@pytest.fixture(params=["async", "sync"])
def value(request: pytest.FixtureRequest, results: dict[str, Any]) -> Callable[[str], Any]:
    """`value(step)`: what a step of the driver returned; its traceback fails the test."""
    steps = results[request.param]

    def get(step: str) -> Any:
        assert "error" not in steps[step], steps[step]["error"]
        return steps[step]["value"]

    return get


def test_session_lifecycle(value: Callable[[str], Any]) -> None:
    seen = value("session_lifecycle")
    assert seen["found"] == seen["created"]
    assert seen["created"] in seen["listed"]
    assert seen["created"] not in seen["left"]


def test_unknown_session(value: Callable[[str], Any]) -> None:
    assert value("session_get_unknown") == [404, {"detail": "Session not found"}]


def test_get_or_create(value: Callable[[str], Any]) -> None:
    created, same, other = value("session_get_or_create")
    assert same == created
    assert other not in (created, "nobody")


def test_run(value: Callable[[str], Any]) -> None:
    assert value("session_run") == "echo: core"
    assert value("session_run_failing").endswith("no luck")


def test_run_nowait_and_result(value: Callable[[str], Any]) -> None:
    seen = value("run_nowait_and_result")
    assert seen["early"] is None
    assert seen["result"] == {
        "task_id": seen["task_id"],
        "history": [],
        "result": "slept",
        "data": {},
    }


def test_create_task_keeps_the_clients_id(value: Callable[[str], Any]) -> None:
    seen = value("create_task_keeps_the_client_id")
    assert seen["got"] == seen["sent"]
    assert seen["listed"] == [
        {
            "input": '{"message": "mine"}',
            "task_id": seen["sent"],
            "session_id": seen["session"],
            "service_id": "echo",
        }
    ]
    assert seen["result"] == "echo: mine"


@pytest.mark.original_differs("null, as for a task that is not ready")
def test_result_of_an_unknown_task_is_an_error(value: Callable[[str], Any]) -> None:
    assert value("result_of_unknown_task") == 404


@pytest.mark.original_differs("a result overtakes the tail of its stream", strict=False)
def test_result_stream(value: Callable[[str], Any]) -> None:
    assert value("result_stream") == [
        {"count": 0},
        {"count": 1},
        {"count": 2},
        {"_data": {"note": "dynamic"}},
        {},
    ]


def test_context_survives_between_tasks_of_a_session(value: Callable[[str], Any]) -> None:
    assert value("context_survives_in_session") == ["1", "2", "3"]


def test_a_failed_run_does_not_poison_its_session(value: Callable[[str], Any]) -> None:
    first, failed, second = value("failed_run_keeps_its_session")
    assert (first, second) == ("1", "2")
    assert failed.endswith("no luck")


def test_send_event(value: Callable[[str], Any]) -> None:
    assert value("send_event") == "You are 7"
    assert value("send_event_def") == "You are 8"


@pytest.mark.original_differs("a result overtakes the tail of its stream", strict=False)
def test_human_in_the_loop_over_the_stream(results: dict[str, Any]) -> None:
    step = results["async"]["answer_after_the_question"]
    assert step == {
        "value": {"lines": [{"_data": {"prefix": "Go on?"}}, {}], "result": "You said yes"}
    }, step


def test_services(value: Callable[[str], Any]) -> None:
    seen = value("services")
    assert {"echo", "counter", "ask"} <= set(seen["before"])
    assert seen["registered"] == "ghost"
    assert set(seen["during"]) == {*seen["before"], "ghost"}
    assert set(seen["after"]) == set(seen["before"])
