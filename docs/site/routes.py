"""Every route, from the OpenAPI documents beside this folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.site.markdown import WRITTEN, table

DOCUMENTS = Path(__file__).parents[1]
SERVERS = {
    "API server": ("apiserver.json", "Port 4501: many deployments, and their administration."),
    "Control plane": ("control_plane.json", "Port 8000: one deployment."),
}
HEAD = """
# Routes

From the OpenAPI documents [apiserver.json](../apiserver.json) and
[control_plane.json](../control_plane.json), which have bodies and replies in full; every server has
its own at `/openapi.json` and `/docs`.
[HTTP API](../http-api.md) explains what is new since LlamaDeploy 0.8.1. Parameters in a path are
left out below; `Idempotency-Key`, `Last-Event-ID` and `Accept` are headers.
"""


def page() -> str:
    """The page: a table per server."""
    text = WRITTEN + HEAD
    for title, (name, what) in SERVERS.items():
        document = json.loads((DOCUMENTS / name).read_text())
        text += f"\n## {title}\n\n{what}\n\n"
        text += table(("route", "parameters", "what it does"), _rows(document))
    return text


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            asked = [each for each in operation.get("parameters", ()) if each["in"] != "path"]
            names = [f"`{each['name']}`" for each in asked]
            if "requestBody" in operation:
                names.append("a body")
            yield f"`{method.upper()} {path}`", ", ".join(names), _first(operation)


def _first(operation: dict[str, Any]) -> str:
    """The first paragraph of what is said about it."""
    text = operation.get("description") or operation.get("summary") or ""
    return re.split(r"\n\s*\n", text.strip())[0].replace("``", "`")
