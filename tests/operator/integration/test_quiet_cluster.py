"""A cluster in which nothing happens must not be taken for one that is not heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.cluster.api import Api
from e2e.cluster.control_plane import ControlPlane
from e2e.operator_process import SYSTEM, OperatorProcess, create_once, eventually, grant

REQUEST = 5
"""Seconds of a watch, the fewest; it is deaf after 7.5."""


@pytest.mark.timeout(180)
def test_a_kind_without_any_event_is_heard(own_control_plane: ControlPlane, tmp_path: Path) -> None:
    """An API server sends no bookmarks for Jobs before there was the first one since it started."""
    api = Api(own_control_plane.kubeconfig)
    create_once(api, "/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
    grant(api, "operator")
    config = own_control_plane.kubeconfig_for("operator")
    operator = OperatorProcess(config, tmp_path, "--watch-seconds", str(REQUEST))
    operator.start()
    try:
        operator.wait_working()

        def age() -> float:
            status, text = operator.fetch("/healthz")
            assert status == 200, text
            found = operator.metric(
                r'llamadeploy_operator_watch_age_seconds(?=\{[^}]*resource="jobs.batch")'
            )
            return found

        for turn in range(3):
            eventually(lambda: age() > REQUEST / 2, f"{turn}: nothing happens for a while", 30)
            eventually(lambda: age() < REQUEST / 2, f"{turn}: its end is heard", 30)
    finally:
        operator.stop()
        api.close()
