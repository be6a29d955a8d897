"""A cluster of kind's, for machines with Docker."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from e2e.cluster.build import Report
from e2e.images import Docker
from e2e.providers.base import ProviderUnavailableError

CONFIG = Path(__file__).with_name("kind.yaml")


class Kind:
    """See the module."""

    name = "kind"

    def __init__(self, report: Report = lambda line: None) -> None:
        self._report = report
        self._builder = Docker(report)
        self._name = f"llamadeploy-{uuid.uuid4().hex[:6]}"
        self._folder = Path(tempfile.mkdtemp(prefix="ldep-"))
        self._built: dict[str, str] = {}
        self._loaded: set[str] = set()
        self.kubeconfig = self._folder / "kubeconfig"

    @staticmethod
    def missing() -> str:
        """The programs that this machine lacks."""
        lacking = [name for name in ("docker", "kind") if shutil.which(name) is None]
        if lacking:
            return f"{' and '.join(lacking)} not installed: see https://kind.sigs.k8s.io"
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
        return f"docker does not answer: {done.stderr.strip()}" if done.returncode else ""

    def start(self) -> None:
        self._report(f"Starting the kind cluster {self._name} ...")
        self._kind("create", "cluster", "--config", str(CONFIG), "--wait", "180s",
                   "--kubeconfig", str(self.kubeconfig))  # fmt: skip

    def stop(self) -> None:
        self._kind("delete", "cluster", "--kubeconfig", str(self.kubeconfig))
        shutil.rmtree(self._folder, ignore_errors=True)

    def image(self, name: str) -> str:
        if name not in self._built:  # once in a run, whatever is edited meanwhile
            builder = self._builder
            self._built[name] = builder.app() if name == "app" else builder.server(name)
        return self._load(self._built[name])

    def other_tag(self) -> str:
        self.image("app")
        return self._load(self._builder.alias(self._built["app"], "previous"))

    def kill(self, container_id: str) -> None:
        container = container_id.removeprefix("containerd://")
        for node in self._kind("get", "nodes").split():
            command = ["docker", "exec", node, "ctr", "-n", "k8s.io", "tasks", "kill",
                       "--signal", "SIGKILL", "--all", container]  # fmt: skip
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
        raise AssertionError(f"no node has the container {container}")

    def _load(self, image: str) -> str:
        if image not in self._loaded:
            self._kind("load", "docker-image", image)
            self._loaded.add(image)
        return image

    def _kind(self, *words: str) -> str:
        command = ["kind", *words, "--name", self._name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProviderUnavailableError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout
