"""What is kept of a cluster when a scenario has failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import yaml

from e2e.cluster.api import Api, ApiRefusedError
from e2e.operator_process import PATHS

KINDS = ("ldep", "wfs", "deployment", "statefulset", "job", "pod", "service", "pvc", "pdb",
         "networkpolicy", "configmap", "event")  # fmt: skip
"""No Secrets: the folder is meant to be attached to a report."""


def collect(api: Api, namespaces: list[str], folder: Path) -> Path:
    """Write objects, events in order of time, and every container's logs below ``folder``."""
    for namespace in namespaces:
        place = folder / namespace
        place.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            items = _items(api, kind, namespace)
            for item in items:
                item["metadata"].pop("managedFields", None)
            if kind == "event":
                (place / "events.txt").write_text(_events(items))
            elif items:
                (place / f"{kind}.yaml").write_text(yaml.safe_dump_all(items, sort_keys=False))
            if kind == "pod":
                for pod in items:
                    _logs(api, namespace, pod, place)
    nodes = _ask(api, "/api/v1/nodes")
    (folder / "nodes.json").write_text(json.dumps(nodes, indent=1))
    return folder


def _items(api: Api, kind: str, namespace: str) -> list[dict[str, Any]]:
    base, plural = PATHS[kind]
    found = _ask(api, f"{base}/namespaces/{namespace}/{plural}")
    return list(found.get("items", [])) if isinstance(found, dict) else []


def _events(items: list[dict[str, Any]]) -> str:
    def when(item: dict[str, Any]) -> str:
        return str(item.get("lastTimestamp") or item.get("eventTime") or "")

    return "".join(
        f"{when(item)} {item.get('type')} {item.get('reason')}"
        f" {item['involvedObject'].get('kind')}/{item['involvedObject'].get('name')}:"
        f" {item.get('message')}\n"
        for item in sorted(items, key=when)
    )


def _logs(api: Api, namespace: str, pod: dict[str, Any], place: Path) -> None:
    name = pod["metadata"]["name"]
    spec = pod["spec"]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for previous in (False, True):
            params = {"container": container["name"], "previous": str(previous).lower()}
            text = _ask(api, f"/api/v1/namespaces/{namespace}/pods/{name}/log", params)
            if isinstance(text, str) and text:
                suffix = ".previous" if previous else ""
                (place / f"{name}.{container['name']}{suffix}.log").write_text(text)


def _ask(api: Api, path: str, params: dict[str, str] | None = None) -> Any:
    """The answer; none where it is refused, which must not hide the failure itself."""
    try:
        return api.request("GET", path, params=params)
    except (ApiRefusedError, httpx.HTTPError):
        return {}
