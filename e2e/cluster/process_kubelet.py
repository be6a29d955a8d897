"""A node that runs one container of a pod as a process on this machine, and serves its log.

The way of a log through the API server is the real one: it looks up the node that a pod is bound to
and asks its kubelet over HTTPS. Images, volumes and isolation do not exist here.
"""

from __future__ import annotations

import base64
import http.server
import os
import re
import ssl
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

from e2e.cluster.api import MERGE_PATCH, Api
from e2e.cluster.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
_LOG = re.compile(r"/containerLogs/([^/]+)/([^/]+)/([^/?]+)")


class ProcessKubelet:
    """Attributes:
    node: name of the node.
    """

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self._api = Api(control_plane.kubeconfig)
        self._folder = folder
        self._logs: dict[tuple[str, ...], bytes] = {}
        self.node = f"processes-{uuid.uuid4().hex[:8]}"
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificates = control_plane.folder / "certificates"
        tls.load_cert_chain(certificates / "apiserver.crt", certificates / "apiserver.key")
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def start(self) -> None:
        """Serve, and register the node."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        port = self._server.server_address[1]
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        self._api.request(
            "POST", "/api/v1/nodes", {"metadata": {"name": self.node}, "status": status}
        )

    def stop(self) -> None:
        """End it; the node goes, too."""
        self._api.request("DELETE", f"/api/v1/nodes/{self.node}")
        self._server.shutdown()
        self._server.server_close()
        self._api.close()

    def run(self, namespace: str, name: str) -> int:
        """Bind a pod that waits, run its only container to its end, and say how it ended.

        Returns: the exit code.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        target = {"apiVersion": "v1", "kind": "Node", "name": self.node}
        binding = {"metadata": {"name": name}, "target": target}
        self._api.request("POST", f"{path}/binding", binding)
        (container,) = self._api.request("GET", path)["spec"]["containers"]
        volume = self._folder / name
        volume.mkdir()
        environment = self._environment(namespace, container) | {
            "PATH": os.environ["PATH"],
            "HOME": str(volume),
            "PYTHONPATH": str(ROOT / "runtime"),
            "LLAMADEPLOY_SOURCE_DIR": str(volume / "source"),
        }
        assert container["command"][0] == "llamadeploy"
        done = subprocess.run(
            [sys.executable, "-P", "-m", *container["command"]],
            env=environment, cwd=volume, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=100, check=False,
        )  # fmt: skip
        self._logs[namespace, name, container["name"]] = done.stdout
        self._report(path, container, done)
        return done.returncode

    def _environment(self, namespace: str, container: dict[str, Any]) -> dict[str, str]:
        found = {}
        for item in container["env"]:
            reference = item.get("valueFrom", {}).get("secretKeyRef")
            if reference is None:
                found[item["name"]] = item.get("value", "")
                continue
            secret = self._api.request(
                "GET", f"/api/v1/namespaces/{namespace}/secrets/{reference['name']}"
            )
            found[item["name"]] = base64.b64decode(secret["data"][reference["key"]]).decode()
        return found

    def _report(
        self, path: str, container: dict[str, Any], done: subprocess.CompletedProcess[bytes]
    ) -> None:
        ended: dict[str, Any] = {"exitCode": done.returncode, "reason": "Completed"}
        if done.returncode:
            # terminationMessagePolicy: FallbackToLogsOnError
            ended |= {"reason": "Error", "message": done.stdout.decode()[-2048:]}
        status = {
            "phase": "Failed" if done.returncode else "Succeeded",
            "containerStatuses": [
                {
                    "name": container["name"], "image": container["image"], "imageID": "",
                    "ready": False, "restartCount": 0, "state": {"terminated": ended},
                }
            ],
        }  # fmt: skip
        self._api.request("PATCH", f"{path}/status", {"status": status}, content_type=MERGE_PATCH)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        logs = self._logs

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = _LOG.match(self.path)
                log = logs.get(asked.groups()) if asked else None
                self.send_response(404 if log is None else 200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(log or b"no such container\n")

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler
