"""etcd, kube-apiserver and kube-controller-manager: a Kubernetes without nodes.

Pods are created and stay Pending (kwok can make them Running); everything else is real: schemas,
CEL, server-side apply, watches, RBAC, the garbage collector, controllers.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import yaml

from e2e.cluster.api import Api, wait_for
from e2e.cluster.audit import POLICY, AuditLog
from e2e.cluster.process import Process, free_port

CONTROLLERS = (
    "garbage-collector-controller", "namespace-controller", "serviceaccount-controller",
    "deployment-controller", "replicaset-controller", "statefulset-controller", "job-controller",
    "disruption-controller", "horizontal-pod-autoscaler-controller", "resourcequota-controller",
    "clusterrole-aggregation-controller",
)  # fmt: skip
"""What acts on the objects of ours; the others only cost time."""

USERS: Mapping[str, Sequence[str]] = {"admin": ["system:masters"], "operator": []}
"""User -> groups. ``operator`` may do what RBAC objects give to that user."""
CONTROLLERS_USER = "controllers"
"""Apart from the admin, so that the audit log tells them apart."""

START_SECONDS = 60.0
"""4 s on an idle machine."""


class ControlPlane:
    """One cluster, on free ports of the loopback interface.

    Args:
        users: user -> groups.
        enabled: controllers; ``"*"`` for all.
        address: where the API server listens instead.
        enter: in front of each command, such as one that enters a network namespace.

    Attributes:
        url: of the API server.
        kubeconfig: file with the admin's credentials.
        binary, folder: the cluster's programs; its files, removed by whoever made it.
        audit: what was asked of the API server; None unless wanted.
        etcd, api_server, controllers: the processes, to be killed, frozen and started again.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        audit: bool = False,
        users: Mapping[str, Sequence[str]] = USERS,
        enabled: Sequence[str] = CONTROLLERS,
        address: str = "127.0.0.1",
        enter: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.enter = tuple(enter)
        self.folder = folder
        folder.chmod(0o700)  # the tokens and the key lie in here
        users = {**users, CONTROLLERS_USER: ["system:masters"]}
        self._ports = {name: free_port() for name in ("etcd", "peer", "api")}
        self._tokens = {user: secrets.token_hex(16) for user in users}
        self.address = address
        self.url = f"https://{address}:{self._ports['api']}"
        self.audit = AuditLog(folder / "audit.log") if audit else None
        self._write_files(users)

        def process(name: str, *arguments: str) -> Process:
            return Process(name, [*enter, str(binary), name, *arguments], folder)

        self.etcd = process("etcd", *self._etcd_arguments())
        self.api_server = process("kube-apiserver", *self._api_arguments())
        self.controllers = process("kube-controller-manager", *self._controller_arguments(enabled))

    @property
    def certificate(self) -> Path:
        """The API server's certificate, which is its own authority."""
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        return self.kubeconfig_for("admin")

    def kubeconfig_for(self, user: str, *, server: str | None = None) -> Path:
        """A kubeconfig file of one of the ``users``.

        Args:
            server: another URL, such as a proxy's.
        """
        certificate = base64.b64encode(self.certificate.read_bytes()).decode()
        cluster = {"server": server or self.url, "certificate-authority-data": certificate}
        context = {"cluster": "local", "user": user, "namespace": "default"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "local",
            "clusters": [{"name": "local", "cluster": cluster}],
            "contexts": [{"name": "local", "context": context}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
        }
        port = "" if server is None else f"-{httpx.URL(server).port}"
        path = self.folder / f"{user}{port}.kubeconfig"
        path.touch(0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def start(self, crds: Sequence[Path] = ()) -> None:
        """Start everything and wait until it answers.

        Args:
            crds: installed before the controllers start, because the garbage collector looks for
                new kinds only every 30 seconds.
        """
        try:
            self.etcd.start()
            self.api_server.start()
            wait_for(self._ready, START_SECONDS, "the API server is ready")
            api = Api(self.kubeconfig)
            api.install_crds(*crds)
            self.kubeconfig_for(CONTROLLERS_USER)
            self.controllers.start()
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            wait_for(lambda: api._answers(path), START_SECONDS, "the controllers work")
            api.close()
        except AssertionError as error:
            tails = "\n".join(f"--- {item.name}\n{item.tail()}" for item in self._processes())
            self.stop()
            raise AssertionError(f"{error}\n{tails}") from None

    def stop(self) -> None:
        """End it all; idempotent."""
        for process in self._processes():
            process.stop()

    def _processes(self) -> list[Process]:
        return [self.controllers, self.api_server, self.etcd]

    def _ready(self) -> bool:
        assert self.api_server.running, "the API server has ended"
        assert self.etcd.running, "etcd has ended"
        try:
            context = ssl.create_default_context(cafile=str(self.certificate))
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            headers = {"Authorization": f"Bearer {self._tokens['admin']}"}
            answer = httpx.get(
                f"{self.url}/readyz", verify=context, headers=headers, trust_env=False
            )
        except (OSError, httpx.HTTPError):
            return False
        return answer.status_code == 200

    def _write_files(self, users: Mapping[str, Sequence[str]]) -> None:
        (self.folder / "certificates").mkdir(exist_ok=True)
        tokens = self.folder / "tokens.csv"
        tokens.touch(0o600)
        lines = [f'{self._tokens[user]},{user},{user},"{",".join(users[user])}"' for user in users]
        tokens.write_text("\n".join(lines) + "\n")
        (self.folder / "audit-policy.json").write_text(json.dumps(POLICY))

    def _etcd_arguments(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "peer"))
        return [
            f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync", "--log-level=warn",
        ]  # fmt: skip

    def _api_arguments(self) -> list[str]:
        certificates = self.folder / "certificates"
        key = certificates / "apiserver.key"  # made with the certificate, signs tokens as well
        arguments = [
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}",
            f"--secure-port={self._ports['api']}", f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--cert-dir={certificates}", f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC", "--anonymous-auth=false",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP", "--shutdown-delay-duration=0s",
        ]  # fmt: skip
        if self.address == "127.0.0.1":  # not an address that a Service may lead to
            arguments.append("--endpoint-reconciler-type=none")
        if self.audit is not None:
            arguments += [
                f"--audit-log-path={self.audit.path}", "--audit-log-mode=blocking",
                "--audit-log-maxsize=10000",  # MB; the default, 100, would put a part aside
                f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            ]  # fmt: skip
        return arguments

    def _controller_arguments(self, enabled: Sequence[str]) -> list[str]:
        certificates = self.folder / "certificates"
        return [
            f"--kubeconfig={self.folder / CONTROLLERS_USER}.kubeconfig", "--leader-elect=false",
            "--secure-port=0", f"--controllers={','.join(enabled)}",
            f"--root-ca-file={self.certificate}",
            f"--service-account-private-key-file={certificates / 'apiserver.key'}",
            "--kube-api-qps=500", "--kube-api-burst=1000",
            "--horizontal-pod-autoscaler-sync-period=2s",
        ]  # fmt: skip
