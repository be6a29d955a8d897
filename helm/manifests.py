"""Render the charts for ``kubectl apply --server-side -f``: ``python -m helm.manifests FOLDER``.

``kustomize/base/operator.yaml`` is written too: the same objects as in ``install.yaml``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from e2e.cluster.build import helm_binary

HERE = Path(__file__).parent
BASE = HERE.parent / "kustomize" / "base" / "operator.yaml"
NAMESPACE = "llamadeploy-system"
OF_HELM = re.compile(r"(?m)^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n")
HEAD = """\
apiVersion: v1
kind: Namespace
metadata:
  name: llamadeploy-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def render(helm: Path, chart: str) -> str:
    """A chart with its default values, without what only Helm's own objects carry.

    Raises:
        subprocess.CalledProcessError: Helm refuses.
    """
    command = [helm, "template", chart, HERE / chart, "--namespace", NAMESPACE]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return OF_HELM.sub("", text)


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
    found = manifests(helm)
    written = {folder / name: content for name, content in found.items()}
    for path, content in {**written, BASE: found["install.yaml"]}.items():
        path.write_text(content)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
