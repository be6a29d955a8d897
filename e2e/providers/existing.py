"""The cluster of ``KUBECONFIG``, with images that its nodes can pull."""

from __future__ import annotations

import os
from pathlib import Path

from e2e.cluster.build import Report
from e2e.images import PUBLIC, ImageUnavailableError

IMAGE = "LLAMADEPLOY_E2E_IMAGE"
PREVIOUS_IMAGE = "LLAMADEPLOY_E2E_PREVIOUS_IMAGE"
SERVER_IMAGE = "LLAMADEPLOY_E2E_{}_IMAGE"


class Existing:
    """See the module. Only by ``LLAMADEPLOY_E2E_PROVIDER=existing``: it installs our charts."""

    name = "existing"

    def __init__(self, report: Report = lambda line: None) -> None:
        self.kubeconfig = Path(os.environ.get("KUBECONFIG", ""))

    @staticmethod
    def missing() -> str:
        """What is not set."""
        lacking = [name for name in ("KUBECONFIG", IMAGE) if not os.environ.get(name)]
        return f"set {' and '.join(lacking)}" if lacking else ""

    def start(self) -> None:
        """It is there."""

    def stop(self) -> None:
        """It stays."""

    def image(self, name: str) -> str:
        if name == "app":
            return os.environ[IMAGE]
        return os.environ.get(SERVER_IMAGE.format(name.upper()), PUBLIC[name])

    def other_tag(self) -> str:
        found = os.environ.get(PREVIOUS_IMAGE)
        if not found:
            raise ImageUnavailableError(f"set {PREVIOUS_IMAGE} to the image of an earlier build")
        return found

    def kill(self, container_id: str) -> None:
        raise NotImplementedError("the nodes of an existing cluster are out of reach")
