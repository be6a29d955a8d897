"""Installing the charts."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import yaml

from e2e.operator_process import Json
from e2e.providers.base import Provider

CHARTS = Path(__file__).parents[1] / "helm"
SYSTEM = "llamadeploy-system"
CRDS, OPERATOR = "llamadeploy-crds", "llamadeploy-operator"
WAIT_SECONDS = 240


class Helm:
    """Helm against a provider's cluster; nothing of the user's own Helm is read or written."""

    def __init__(self, program: Path, provider: Provider) -> None:
        self._program = program
        self._kubeconfig = provider.kubeconfig

    def install(self, values: Json, namespace: str = SYSTEM) -> None:
        """Install or upgrade both charts, the definitions first, and wait until they work."""
        self.upgrade(CRDS, {}, namespace)
        self.upgrade(OPERATOR, values, namespace)

    def upgrade(self, chart: str, values: Json, namespace: str = SYSTEM) -> str:
        """One chart."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            return self.run(
                "upgrade", "--install", chart, str(CHARTS / chart), "--values", file.name,
                "--namespace", namespace, "--create-namespace", "--wait",
                "--timeout", f"{WAIT_SECONDS}s",
            )  # fmt: skip

    def uninstall(self, chart: str, namespace: str = SYSTEM) -> str:
        return self.run("uninstall", chart, "--namespace", namespace, "--ignore-not-found",
                        "--wait", "--timeout", f"{WAIT_SECONDS}s")  # fmt: skip

    def run(self, *words: str) -> str:
        """What it printed.

        Raises:
            AssertionError: it failed.
        """
        with tempfile.TemporaryDirectory() as home:
            environ = dict.fromkeys(("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME"), home)
            environ |= {"PATH": os.environ["PATH"], "KUBECONFIG": str(self._kubeconfig)}
            done = subprocess.run(
                [str(self._program), *words], env=environ, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        assert done.returncode == 0, f"helm {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout
