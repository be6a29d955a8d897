"""The OpenAPI documents: complete, true to the routes, and the files up to date."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from llamadeploy.api_server.app import create_app
from llamadeploy.api_server.openapi import documents, write
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.server import ControlPlaneServer
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.openapi import OPEN, operations

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module", params=["apiserver.json", "control_plane.json"])
def document(request: pytest.FixtureRequest) -> Any:
    return documents()[request.param]


def test_the_files_are_up_to_date() -> None:
    assert write(DOCS, check=True) == [], "run `make openapi`"


def test_a_change_is_noticed(tmp_path: Path) -> None:
    assert write(tmp_path) == ["apiserver.json", "control_plane.json"]
    assert write(tmp_path, check=True) == []
    path = tmp_path / "apiserver.json"
    path.write_text(path.read_text().replace("Run a task", "Run no task"))
    assert write(tmp_path, check=True) == ["apiserver.json"]


def test_every_operation_is_described(document: Any) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(document):
        label = f"{method} {path}"
        assert operation["description"].strip() and operation["summary"], label
        placeholders = set(re.findall(r"{(\w+)}", path))
        declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert declared == placeholders, label


def test_success_and_every_error_have_a_model(document: Any) -> None:
    for path, method, operation in operations(document):
        replies = operation["responses"]
        assert {"200", "403", "503"} <= replies.keys(), (method, path)
        assert ("401" in replies) is (path not in OPEN), (method, path)
        for code, reply in replies.items():
            assert reply["description"], (method, path, code)
            if code != "204":
                assert reply["content"], (method, path, code)
            if code[0] in "45" and path not in OPEN:
                schema = reply["content"]["application/json"]["schema"]
                wanted = "HTTPValidationError" if code == "422" else "Problem"
                assert schema["$ref"].endswith(f"/{wanted}"), (method, path, code)


def test_every_reference_leads_somewhere(document: Any) -> None:
    found = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert found <= document["components"]["schemas"].keys()


def test_the_token_is_asked_for_everywhere_but_at_probes_and_metrics(document: Any) -> None:
    assert document["security"] == [{"bearer": []}, {"basic": []}]
    for path, _, operation in operations(document):
        assert operation.get("security") == ([] if path in OPEN else None)


def test_every_route_is_in_its_document() -> None:
    """Also the raw ones, which FastAPI leaves out."""
    backend: Any = type("Backend", (), {"__getattr__": lambda *_: lambda *_: None})()
    config = ControlPlaneConfig.without_environment()
    plane = ControlPlaneServer(LocalMessageQueue(), config=config)
    for app in (create_app(backend), plane.app):
        paths = app.openapi()["paths"]
        found = set(_routes(app.routes))
        assert len(found) > 25
        for method, path in found:
            assert method.lower() in paths[path], (method, path)


def _routes(routes: Any, prefix: str = "") -> Any:
    for route in routes:
        inner = getattr(route, "original_router", None)  # FastAPI's included routers
        if inner is not None:
            yield from _routes(inner.routes, prefix + route.include_context.prefix)
        elif isinstance(route, Mount):
            yield "GET", f"{prefix}{route.path}/{{deployment_name}}/{{path}}"
        elif isinstance(route, APIRoute | Route) and not _documentation(route.path):
            methods = (route.methods or set()) - {"HEAD"}
            yield from ((method, prefix + route.path) for method in methods)


def _documentation(path: str) -> bool:
    return path.startswith(("/docs", "/redoc", "/openapi.json"))
