"""The border between the API server's routes and whatever runs the deployments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.ui.proxy import Upstream


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """A deployment file to bring up.

    Attributes:
        text: the file's text, in either form, with exactly one deployment in it.
        base_path: the folder that relative paths of the file start from.
        file: the file's name, for messages.
        reload: replace the running deployment of that name instead of making a new one.
    """

    text: str = field(repr=False)  # it may hold the values of Secrets
    base_path: Path = Path()
    file: str | None = None
    reload: bool = False


class DeploymentState(StrEnum):
    """How a deployment is."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    CHANGING = "changing"
    """A service of it is being stopped, restarted or scaled."""
    DEGRADED = "degraded"
    """It serves, but a replica of it does not run."""
    FAILED = "failed"
    """It could not be brought up; nothing of it runs."""
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """One deployment; ``details`` is plain JSON data without secrets, for people and tools."""

    name: str
    state: DeploymentState
    problem: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def serving(self) -> bool:
        """Whether it takes tasks."""
        return self.state in (
            DeploymentState.READY, DeploymentState.RELOADING, DeploymentState.CHANGING,
            DeploymentState.DEGRADED,
        )  # fmt: skip


class Backend(Protocol):
    """Runs deployments. Made started; ``aclose`` stops everything and loses nothing."""

    @property
    def max_deployments(self) -> int:
        """How many deployments there may be at once."""
        ...

    async def deploy(self, request: DeployRequest) -> str:
        """Bring the deployment up (or reload it); return its name once every service is ready.

        Raises:
            SpecError: the file is wrong.
            ConfigurationError: what it asks for cannot be.
            ConflictError: the name is taken, or there are too many deployments.
            NotFoundError: ``reload`` of a deployment that is not there.
            DeploymentError: it did not come up; what ran before (if anything) still runs.
        """
        ...

    async def delete(self, name: str, drain: float | None = None) -> None:
        """Stop the deployment and forget it with all of its tasks.

        It takes no more tasks; running ones get ``drain`` seconds (``None``: the backend's own
        bound); what is unfinished then is cancelled.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: it is being changed.
        """
        ...

    def names(self) -> list[str]:
        """The deployments that take tasks, in the order they were made."""
        ...

    def control_plane(self, name: str) -> ControlPlane:
        """The use cases of one deployment.

        Raises:
            NotFoundError: there is none of that name.
        """
        ...

    def user_interface(self, name: str) -> Upstream:
        """The front end of one deployment, which may be down.

        Raises:
            NotFoundError: there is no deployment of that name, or it has no ``ui``.
        """
        ...

    def status(self) -> Sequence[DeploymentStatus]:
        """Every deployment, also those that start or failed; from memory, so always at once."""
        ...

    async def problems(self) -> list[str]:
        """Why the server cannot do its work; empty when it can."""
        ...

    async def aclose(self) -> None:
        """Stop every deployment: workers drain, unfinished tasks stay for the next start."""
        ...
