"""docs/http-api.md lists the routes beyond 0.8.1: all of them, and none that is not there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from llamadeploy.api_server.app import create_app
from llamadeploy.api_server.backends.local.backend import LocalBackend
from llamadeploy.control_plane.app import control_plane_app

DOCUMENT = Path(__file__).parents[3] / "docs" / "http-api.md"

ORIGINAL = """
GET / | GET /status/ | GET /status/metrics | GET /deployments/ | GET D | POST /deployments/create
POST D/tasks/run | POST D/tasks/create | GET D/tasks
POST D/tasks/{}/events | GET D/tasks/{}/events | GET D/tasks/{}/results
GET D/sessions | GET D/sessions/{} | POST D/sessions/create | POST D/sessions/delete
GET /queue_config | POST /process_message | POST /services/register | POST /services/deregister
GET /services | GET /services/{} | POST /sessions/create | GET /sessions | GET /sessions/{}
POST /sessions/{}/delete | POST /sessions/{}/tasks | GET /sessions/{}/tasks
GET /sessions/{}/current_task | GET /sessions/{}/tasks/{}/result
GET /sessions/{}/tasks/{}/result_stream | POST /sessions/{}/tasks/{}/send_event
GET /sessions/{}/state | POST /sessions/{}/state | GET /ui/{}/{}
"""


def normal(route: str) -> str:
    """``GET D/tasks/{}``: however the deployment and the ids are called."""
    route = re.sub(r"/deployments/\{[a-z_]+\}", "D", route.strip())
    return re.sub(r"\{[a-z_]*\}", "{}", route)


def served(app: FastAPI) -> Iterator[str]:
    for path, operations in app.openapi()["paths"].items():
        if path.startswith("/internal/"):
            continue  # between our own processes
        for method in operations:
            yield normal(f"{method.upper()} {path}")


@pytest.fixture
async def routes(plane: Any, tmp_path: Path) -> AsyncIterator[set[str]]:
    backend = await LocalBackend.open(tmp_path / "data")
    api_server = create_app(backend)
    yield {*served(api_server), *served(control_plane_app(plane.control_plane))}
    await backend.aclose()


def documented() -> set[str]:
    text = DOCUMENT.read_text()
    return {normal(route) for route in re.findall(r"`((?:GET|POST|DELETE) [D/][^`]*)`", text)}


async def test_what_is_documented_is_served(routes: set[str]) -> None:
    assert documented() - routes == set()


async def test_what_is_served_is_original_or_documented(routes: set[str]) -> None:
    original = {normal(route) for route in re.split(r"[|\n]", ORIGINAL) if route.strip()}
    assert routes - original - documented() == set()
