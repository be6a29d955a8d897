"""Deployments made and reloaded with the original SDK."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def report(ask: Callable[..., Any], start_server: Callable[..., Any], service: Any) -> Any:
    """What the driver `sdk_deployments` saw on a server of its own."""
    services = {"version": service("workflow:version", env={"COMPAT_STAGE": "a"})}
    with start_server("release", services) as server:
        return ask(
            "sdk_deployments", api=server.api_url, control_plane=server.control_plane_url,
            folder=str(server.folder),
        )  # fmt: skip


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
