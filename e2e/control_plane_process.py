"""A real control plane beside a cluster that has no nodes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from e2e.cluster.process import Process, free_port
from e2e.operator_process import ROOT, eventually
from llamadeploy.state_stores.records import Execution, StartRequest
from llamadeploy.worker.remote_store import RemoteExecutionStore


class ControlPlaneProcess(Process):
    """``llamadeploy control-plane`` on loopback, with a store that outlives it.

    Args:
        settings: variables beside or instead of those for the simple queue and SQLite.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        ports = {name: free_port() for name in ("port", "queue-port", "metrics-port")}
        self.url = f"http://127.0.0.1:{ports['port']}"
        self.token = ""
        self.settings = {
            "LLAMADEPLOY_DEPLOYMENT": "d",
            "LLAMADEPLOY_NAMESPACE": "ns.d",
            "LLAMADEPLOY_QUEUE_TYPE": "simple",
            "LLAMADEPLOY_STATE_STORE_URI": f"sqlite:///{folder}/state.db",
            "LLAMADEPLOY_DEFAULT_SERVICE": "echo",
            **settings,
        }
        command = [sys.executable, "-m", "llamadeploy", "control-plane", "--host", "127.0.0.1"]
        for name, port in ports.items():
            command += [f"--{name}", str(port)]
        path = {"PYTHONPATH": str(ROOT / "runtime")}
        self.environment = {**os.environ, **self.settings, **path}
        super().__init__("control-plane", command, folder, self.environment)

    def start_with(self, token: str) -> None:
        self.token = token
        self._env = dict(self.environment)
        if token:
            self._env["LLAMADEPLOY_API_TOKEN"] = token
        self.start()
        eventually(self.answers, "the control plane answers", 60)

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/services") is not None
        except httpx.HTTPError:
            return False

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.url}{path}"
        answer = httpx.request(method, url, json=body, headers=headers, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def task(self, service: str) -> tuple[str, str]:
        """An unfinished one: nobody works here. Session and task."""
        self.ask("POST", "/services/register", {"service_name": service, "description": "x"})
        made = self.create(service)
        return made["session_id"], made["task_id"]

    def create(self, service: str) -> Any:
        """A task of a service as it is registered."""
        body = {"input": json.dumps({}), "service_id": service}
        return self.ask("POST", "/deployments/d/tasks/create", body)

    def refused(self, service: str) -> str:
        """What is said to who wants a task; empty where it was accepted."""
        try:
            self.create(service)
        except httpx.HTTPStatusError as error:
            return str(error.response.json()["detail"])
        return ""

    def unfinished(self, service: str) -> list[Any]:
        """Its queued tasks."""
        found: list[Any] = self.ask(
            "GET", f"/deployments/d/task-statuses?state=queued&service={service}"
        )
        return found

    def begin(self, task: str, worker: str) -> None:
        """Start it in the name of a worker that is not there, for ten minutes."""
        request = StartRequest(task_id=task, execution_id=worker, worker_id=worker, lease=600)

        async def start() -> None:
            store = RemoteExecutionStore(self.url, self.token or None)
            try:
                assert isinstance(await store.start(request), Execution)
            finally:
                await store.aclose()

        asyncio.run(start())

    def status(self, task: str) -> Any:
        return self.ask("GET", f"/deployments/d/tasks/{task}")
