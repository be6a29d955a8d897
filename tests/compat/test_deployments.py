"""Deployments made and reloaded with the original SDK."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def report(compat_python: Path, start_server: Callable[..., Any], service: Any) -> dict[str, Any]:
    driver = Path(__file__).parent / "drivers" / "sdk_deployments.py"
    services = {"version": service("workflow:version", env={"COMPAT_STAGE": "a"})}
    with start_server("release", services) as server:
        done = subprocess.run(
            [str(compat_python), str(driver), "--api", server.api_url,
             "--control-plane", server.control_plane_url, "--folder", str(server.folder)],
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + server.tail()
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_create(report: dict[str, Any]) -> None:
    assert report["names_before"] == []
    assert report["created"] == "release"
    assert report["names_after"] == ["release"]
    assert report["first"] == "1 a"


@pytest.mark.original_differs("a duplicate is a bare 500")
def test_a_duplicate_is_refused_and_changes_nothing(report: dict[str, Any]) -> None:
    status, body = report["duplicate"]
    assert 400 <= status < 500
    assert "release" in json.loads(body)["detail"]
    assert report["after_duplicate"] == "1 a"


@pytest.mark.original_differs("bad YAML is a bare 500")
def test_bad_files_are_refused_with_the_reason(report: dict[str, Any]) -> None:
    status, body = report["bad_yaml"]
    assert 400 <= status < 500
    assert ":1:" in json.loads(body)["detail"], "the line is missing"
    status, body = report["no_services"]
    assert 400 <= status < 500
    assert "services" in str(json.loads(body)["detail"])


@pytest.mark.original_differs("an unknown reload is a bare 500")
def test_reload_of_an_unknown_deployment_is_refused(report: dict[str, Any]) -> None:
    status, body = report["unknown_reload"]
    assert status == 404
    assert "not found" in json.loads(body)["detail"]
    assert report["names_at_last"] == ["release"]


@pytest.mark.original_differs("a reload keeps the module that was imported first")
def test_reload_runs_the_new_code_with_the_new_environment(report: dict[str, Any]) -> None:
    assert report["reloaded"] == "release"
    assert report["second"] == "2 b"
