"""Create and reload deployments with the 0.8.1 SDK; `folder` holds deployment.yaml and src/."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
from llama_deploy import Client
from llama_deploy.types import TaskDefinition

READY_SECONDS = 30


def run(api: str, control_plane: str, folder: str) -> dict[str, Any]:
    """What the server answered to each creation, reload and task."""
    client = Client(api_server_url=api, control_plane_url=control_plane, timeout=60).sync
    root = Path(folder)
    manifest = root / "deployment.yaml"
    report: dict[str, Any] = {}

    report["names_before"] = client.apiserver.status().deployments
    report["created"] = create(client, manifest)
    report["names_after"] = client.apiserver.status().deployments
    wait_for(client, "version")
    report["first"] = run_task(client, report["created"])
    report["duplicate"] = create(client, manifest)
    report["after_duplicate"] = run_task(client, report["created"])
    report["bad_yaml"] = post(client, "name: [unclosed", root)
    report["no_services"] = post(client, "name: nothing\ncontrol-plane: {}\n", root)
    text = manifest.read_text()
    report["unknown_reload"] = post(
        client, text.replace("name: release\n", "name: other\n", 1), root, reload=True
    )
    report["names_at_last"] = client.apiserver.status().deployments

    (root / "src" / "release.py").write_text('RELEASE = "2"\n')
    manifest.write_text(text.replace("COMPAT_STAGE: a", "COMPAT_STAGE: b"))
    report["reloaded"] = create(client, manifest, reload=True)
    report["second"] = run_task(client, "release")
    return report


def create(client: Any, manifest: Path, reload: bool = False) -> Any:
    """The deployment's id, or `[status, body]` of the refusal."""
    try:
        with manifest.open() as file:
            return client.apiserver.deployments.create(
                file, base_path=str(manifest.parent), reload=reload
            ).id
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, error.response.text]


def post(client: Any, text: str, folder: Path, reload: bool = False) -> Any:
    other = folder / "other.yaml"
    other.write_text(text)
    return create(client, other, reload)


def run_task(client: Any, deployment: str) -> Any:
    found = client.apiserver.deployments.get(deployment)
    try:
        return found.tasks.run(TaskDefinition(input="{}"))
    except httpx.HTTPError as error:
        return repr(error)


def wait_for(client: Any, service: str) -> None:
    """0.8.1 answers `create` before its services are there, and loses what is sent meanwhile."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            if service in [each.id for each in client.core.services.list()]:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{service} not registered within {READY_SECONDS} s")
