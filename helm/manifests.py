"""Render the charts for ``kubectl apply --server-side -f``: ``python -m helm.manifests FOLDER``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from e2e.cluster.build import helm_binary

HERE = Path(__file__).parent
NAMESPACE = "llamadeploy-system"
HEAD = """\
apiVersion: v1
kind: Namespace
metadata:
  name: llamadeploy-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def render(helm: Path, chart: str) -> str:
    """A chart with its default values. Raises: subprocess.CalledProcessError."""
    command = [helm, "template", chart, HERE / chart, "--namespace", NAMESPACE]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def manifests(helm: Path) -> dict[str, str]:
    """File name -> content."""
    return {
        "crds.yaml": render(helm, "llamadeploy-crds"),
        "install.yaml": HEAD + render(helm, "llamadeploy-operator"),
    }


def main(folder: Path) -> None:
    """Write the files, building Helm where it was not yet built."""
    helm = helm_binary(lambda line: print(line, file=sys.stderr, flush=True))
    folder.mkdir(exist_ok=True)
    for name, content in manifests(helm).items():
        (folder / name).write_text(content)
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
