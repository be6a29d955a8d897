"""What of a status is told in an Event, and what may wait a moment."""

from __future__ import annotations

from typing import Any

import pytest

from llamadeploy_operator.status_news import minor, news


def status(observed: int = 1, runtime: str | None = None, **conditions: str) -> dict[str, Any]:
    """``Ready="False RollingOut"``: status and reason."""
    listed = []
    for kind, text in conditions.items():
        value, reason = text.split()
        listed.append({"type": kind, "status": value, "reason": reason, "message": f"{reason}."})
    found: dict[str, Any] = {"observedGeneration": observed, "conditions": listed}
    return found | ({"runtime": {"image": runtime}} if runtime else {})


COMING = status(Ready="False RollingOut", Stalled="False Reconciled")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({}, COMING, []),
        (COMING, status(Ready="True Ready"), [("Ready", "Ready.", False)]),
        (COMING, status(Stalled="True NameConflict"), [("NameConflict", "NameConflict.", True)]),
        (
            status(Degraded="True CrashLoop"),
            status(Degraded="True ImagePull"),
            [("ImagePull", "ImagePull.", True)],
        ),
        (status(Ready="True Ready"), COMING, []),
        (status(Ready="True Ready"), status(Ready="True Ready"), []),
    ],
)
def test_what_is_told(old: dict[str, Any], new: dict[str, Any], told: list[Any]) -> None:
    assert news(old, new) == told


@pytest.mark.parametrize(
    ("old", "new", "waits"),
    [
        ({}, COMING, True),
        ({}, status(runtime="i", Ready="False RollingOut"), False),
        ({}, status(Stalled="True NameConflict"), False),
        ({}, status(Paused="True Suspended"), False),
        (COMING, status(Ready="False WaitingForServices", Stalled="False Reconciled"), True),
        (COMING, COMING | {"readyReplicas": 1}, True),
        (COMING, status(Ready="True Ready", Stalled="False Reconciled"), False),
        (status(Ready="True Ready"), status(Ready="False RollingOut"), False),
        (COMING, COMING | {"observedGeneration": 2}, False),
        (status(Paused="True Suspended"), status(Paused="False Running"), False),
        (status(Degraded="True CrashLoop"), status(Degraded="False Healthy"), False),
        (status(runtime="i"), status(runtime="j"), False),
    ],
)
def test_what_may_wait(old: dict[str, Any], new: dict[str, Any], waits: bool) -> None:
    assert minor(old, new) is waits
