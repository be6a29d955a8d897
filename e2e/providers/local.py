"""A cluster that the run starts itself: root on Linux, no Docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from e2e.cluster import node
from e2e.cluster.build import BuildUnavailableError, Report, cluster_binary, dns_binary
from e2e.cluster.kept import Kept
from e2e.images import Buildah, Built
from e2e.providers.base import ProviderUnavailableError

KEPT = "LLAMADEPLOY_E2E_CLUSTER"
"""Name of a cluster of ``python -m e2e.cluster up``, which outlives the run."""

PACKAGES = (
    "containerd", "runc", "containernetworking-plugins", "iptables", "conntrack", "iproute2",
    "buildah", "busybox-static", "debootstrap",
)  # fmt: skip


class Local:
    """See the module."""

    name = "local"

    def __init__(self, report: Report = lambda line: None) -> None:
        self._report = report
        self._builder = Buildah(report)
        self._cluster: node.LocalCluster | None = None
        self._folder: str | None = None
        self._built: dict[str, Built] = {}
        self._loaded: set[str] = set()
        self.kubeconfig = Path()
        self.socket = Path()

    @staticmethod
    def missing() -> str:
        """What this machine lacks for it. In CI, and as root, packages are installed."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return "root on Linux is needed"
        lacking = lacking_programs()
        if lacking and os.environ.get("CI") == "true" and shutil.which("apt-get"):
            _install()
            lacking = lacking_programs()
        cure = f"apt-get install {' '.join(PACKAGES)}"
        return f"{', '.join(lacking)} not installed: {cure}" if lacking else ""

    def start(self) -> None:
        kept = os.environ.get(KEPT)
        if kept:
            found = Kept.find(kept)
            self.kubeconfig, self.socket = found.kubeconfig, found.socket
            return
        try:
            programs = cluster_binary(self._report), dns_binary(self._report)
        except BuildUnavailableError as error:
            raise ProviderUnavailableError(str(error)) from None
        self._folder = tempfile.mkdtemp(prefix="ldep-")
        self._cluster = node.LocalCluster(*programs, Path(self._folder))
        self._cluster.start()
        self.kubeconfig, self.socket = self._cluster.kubeconfig, self._cluster.socket

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def image(self, name: str) -> str:
        if name not in self._built:  # once in a run, whatever is edited meanwhile
            builder = self._builder
            self._built[name] = builder.app() if name == "app" else builder.server(name)
        return self._load(self._built[name])

    def other_tag(self) -> str:
        name = self.image("app")
        self._ctr("images", "tag", "--force", name, f"{name}-other")
        return f"{name}-other"

    def kill(self, container_id: str) -> None:
        container = container_id.removeprefix("containerd://")
        self._ctr("tasks", "kill", "--signal", "SIGKILL", "--all", container)

    def _load(self, built: Built) -> str:
        if built.name not in self._loaded:
            if built.name not in self._ctr("images", "ls", "-q").split():
                self._ctr("images", "import", str(built.archive))
            self._loaded.add(built.name)
        return built.name

    def _ctr(self, *words: str) -> str:
        command = ["ctr", "-a", str(self.socket), "-n", "k8s.io", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout


def lacking_programs() -> list[str]:
    """What is not installed."""
    builders = [name for name in Buildah.PROGRAMS if shutil.which(name) is None]
    return list(dict.fromkeys([*node.missing(), *builders]))


def _install() -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update"], install):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProviderUnavailableError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
