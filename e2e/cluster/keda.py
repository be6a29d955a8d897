"""KEDA's operator beside a cluster: it carries services from zero to one and back.

Its metrics adapter, which an HPA above one replica asks, does not run: the API server of the tests
has no aggregation.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx

from e2e.cluster.api import Api, ApiRefusedError
from e2e.cluster.process import Process, free_port

NAMESPACE = "keda"


class Keda(Process):
    """``keda-operator`` with an administrator's kubeconfig.

    Args:
        binary: of ``build.keda_binary``.
    """

    def __init__(self, binary: Path, kubeconfig: Path, folder: Path) -> None:
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
        }
        super().__init__("keda", command, folder, environment)

    def ready(self) -> bool:
        """Whether its controllers run."""
        assert self.running, self.tail()
        try:
            return httpx.get(self._health, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


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
