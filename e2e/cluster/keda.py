"""KEDA's operator beside a cluster: it carries services from zero to one and back.

Its metrics adapter, which an HPA above one replica asks, does not run: the API server of the tests
has no aggregation.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx

from e2e.cluster.api import Api, ApiRefusedError
from e2e.cluster.process import Process, free_port

NAMESPACE = "keda"


class Keda(Process):
    """``keda-operator`` with an administrator's kubeconfig.

    Args:
        binary: of ``build.keda_binary``.
        proxy: by which it asks for metrics, for names that only a cluster knows.
    """

    def __init__(self, binary: Path, kubeconfig: Path, folder: Path, proxy: str = "") -> None:
        ports = {name: free_port() for name in ("metrics", "health-probe", "metrics-service")}
        self._health = f"http://127.0.0.1:{ports['health-probe']}/readyz"
        certificates = folder / "keda-certificates"
        _certify(certificates)
        command = [
            str(binary), f"--cert-dir={certificates}", "--enable-cert-rotation=false",
            *(f"--{name}-bind-address=127.0.0.1:{port}" for name, port in ports.items()),
        ]  # fmt: skip
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "POD_NAMESPACE": NAMESPACE,
            "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
            "WATCH_NAMESPACE": "",
            "HTTP_PROXY": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        super().__init__("keda", command, folder, environment)

    def ready(self) -> bool:
        """Whether its controllers run."""
        assert self.running, self.tail()
        try:
            return httpx.get(self._health, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


class ForwardProxy:
    """An HTTP proxy that answers for every host what one server answers.

    Attributes:
        url: where it listens.
        asked: URLs and status of what was asked, oldest first.
    """

    def __init__(self, server: str) -> None:
        self.asked: list[tuple[str, int]] = []
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler(server))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self, server: str) -> type[http.server.BaseHTTPRequestHandler]:
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = httpx.URL(self.path)
                headers = {"Authorization": self.headers.get("Authorization", "")}
                target = server + url.raw_path.decode()
                try:
                    answer = httpx.get(target, headers=headers, trust_env=False)
                    status, content = answer.status_code, answer.content
                except httpx.HTTPError as error:
                    status, content = 502, str(error).encode()
                asked.append((self.path, status))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler


def prepare(api: Api, crds: list[Path]) -> None:
    """KEDA's definitions and namespace."""
    api.install_crds(*crds)
    try:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    except ApiRefusedError as error:
        if error.status != 409:
            raise


def _certify(folder: Path) -> None:
    """A certificate of its own making, for the adapter that never calls."""
    folder.mkdir(exist_ok=True)
    key, certificate = folder / "tls.key", folder / "tls.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=keda-operator", "-keyout", str(key),
         "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "ca.crt").write_bytes(certificate.read_bytes())
