"""Rendering the charts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

#: Every setting with another value than its default; ``{namespace}`` is the test's.
FULL = """
replicas: 3
namespaces: ["{namespace}"]
image:
  repository: mirrored/llamadeploy
  tag: 1.2.3
  digest: "sha256:{digest}"
  pullPolicy: Always
imagePrefix: registry.local/mirror/
imagePullSecrets: [mirror]
settings:
  leaderElection: true
  leaseNamespace: "{namespace}"
  leaseName: some-lease
  httpHost: 127.0.0.1
  httpPort: 9191
  concurrency: 5
  resyncSeconds: 1000000
  watchSeconds: 20
  drainSeconds: 90
  controlPlaneUrlTemplate: "http://{{service}}.{{namespace}}.example:8000"
  logFormat: text
  logLevel: DEBUG
  runtimeImage: runtime:1
  runtimeUpgrade: Auto
  redisImage: redis:1
  rabbitmqImage: rabbitmq:1
  uiImage: node:1
  imagePullPolicy: Never
  imagePullSecrets: [first, second]
  indexUrl: https://pypi.local/simple
  httpProxy: http://proxy.local:3128
  httpsProxy: http://proxy.local:3129
  noProxy: .local,10.0.0.0/8
  podLogFormat: text
  podLogLevel: WARNING
  clusterDomain: example.local
  admittedNamespaces: [web, apps]
settingsSecret: operator-settings
caBundle: {{configMap: company-ca, key: bundle.pem}}
serviceAccount: {{name: somebody, annotations: {{a: b}}}}
networkPolicy: {{metricsFrom: [{{namespaceSelector: {{matchLabels: {{team: monitoring}}}}}}]}}
priorityClassName: system-cluster-critical
nodeSelector: {{kubernetes.io/os: linux}}
tolerations: [{{key: dedicated, operator: Exists}}]
affinity: {{nodeAffinity: {{}}}}
podAnnotations: {{note: text}}
podLabels: {{pod: label}}
commonLabels: {{team: ours}}
"""
SETS = {
    "default": "{{}}",
    "full": FULL,
    "namespaced": 'namespaces: ["{namespace}"]\nrbac: {{aggregate: false}}',
    "small": "replicas: 1\nsettings: {{leaderElection: false}}\nmetrics: {{service: false}}\n"
    "networkPolicy: {{enabled: false}}\nresources: null",
}


@pytest.fixture
def values(tmp_path: Path) -> Callable[[str, str], Path]:
    """``values("full", namespace)``: a file with one of the sets."""

    def write(name: str, namespace: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(SETS[name].format(namespace=namespace, digest="0" * 64))
        return path

    return write


@pytest.fixture
def run_helm(helm: Path, tmp_path: Path) -> Run:
    """``run_helm("lint", ...)``; nothing of the user's own Helm is read or written."""

    def run(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        environ = {name: str(tmp_path / name) for name in ("HOME", "HELM_CACHE_HOME")}
        done = subprocess.run([helm, *arguments], env=environ, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


@pytest.fixture
def render(run_helm: Run) -> Callable[..., list[dict[str, Any]]]:
    """``render("llamadeploy-operator", "--set", ...)``: the objects."""

    def rendered(chart: str, *arguments: str | Path) -> list[dict[str, Any]]:
        namespace = () if "--namespace" in arguments else ("--namespace", "sys")
        done = run_helm("template", "release", ROOT / "helm" / chart, *namespace, *arguments)
        return [item for item in yaml.safe_load_all(done.stdout) if item]

    return rendered
