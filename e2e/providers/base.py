"""What a provider of clusters does."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from e2e.cluster.build import Report


class ProviderUnavailableError(Exception):
    """There is no cluster to be had; the message says what is missing."""


class Provider(Protocol):
    """A cluster with nodes on which pods run.

    Attributes:
        name: as ``LLAMADEPLOY_E2E_PROVIDER`` has it.
        kubeconfig: of an administrator; once started.
    """

    name: str
    kubeconfig: Path

    def __init__(self, report: Report) -> None: ...

    @staticmethod
    def missing() -> str:
        """What this machine lacks for it, and how to get it; empty: nothing."""
        ...

    def start(self) -> None:
        """Have a cluster that is ready.

        Raises:
            ProviderUnavailableError: it cannot be had.
        """
        ...

    def stop(self) -> None:
        """Leave nothing behind. Idempotent."""
        ...

    def image(self, name: str) -> str:
        """Bring an image into the cluster; gives its name there.

        Args:
            name: ``app``, or one of ``images.SERVERS``.

        Raises:
            ImageUnavailableError: it cannot be built or is not named.
        """
        ...

    def other_tag(self) -> str:
        """The product's image under another tag, for upgrades; gives its name."""
        ...

    def kill(self, container_id: str) -> None:
        """SIGKILL for a container's processes, as its status names it (``containerd://...``).

        Raises:
            NotImplementedError: its nodes are out of reach.
        """
        ...
