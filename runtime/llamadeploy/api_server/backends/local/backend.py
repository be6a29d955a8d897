"""The backend of a laptop: deployments in this process, service replicas in their own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llamadeploy.api_server.backends.base import (
    DeploymentState,
    DeploymentStatus,
    DeployRequest,
)
from llamadeploy.api_server.backends.local.data_directory import DataDirectory, Record
from llamadeploy.api_server.backends.local.deployment import LocalDeployment
from llamadeploy.api_server.backends.local.options import LocalOptions
from llamadeploy.api_server.backends.local.workers import Workers
from llamadeploy.control_plane.control_plane import ControlPlane
from llamadeploy.environments.cache import EnvironmentCache
from llamadeploy.exceptions import (
    ConfigurationError,
    ConflictError,
    DeploymentError,
    LlamaDeployError,
    NotFoundError,
    StoreUnavailableError,
)
from llamadeploy.sources.base import SourceContext
from llamadeploy.spec.deployment import DeploymentSpec
from llamadeploy.spec.laptop import unsupported_on_laptop
from llamadeploy.spec.loader import load_deployment
from llamadeploy.spec.problems import SpecError
from llamadeploy.ui.user_interface import UserInterface

log = logging.getLogger(__name__)

MAX_DEPLOYMENTS = 10
"""As in LlamaDeploy 0.8.1."""

_UNUSED_SECONDS = 30 * 86400.0
"""After a month without a service that runs in it, a Python environment is removed."""

_KEPT_FAILURES = 20
"""Failed deploys that status remembers."""


_PROGRESS_LENGTH = 500
"""Characters of what a deploy is doing."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: str
    at: float


class LocalBackend:
    """Deployments on this machine; made by :meth:`open`.

    Everything it keeps is in one data directory; a deployment that is recorded there is brought
    back by :meth:`restore`, with its tasks.
    """

    def __init__(self, data: DataDirectory, options: LocalOptions) -> None:
        self._data = data
        self._options = options
        self._deployments: dict[str, LocalDeployment] = {}
        self._busy: dict[str, DeploymentState] = {}
        self._progress: dict[str, str] = {}
        self._coming: dict[str, Workers] = {}
        self._failures: dict[str, _Failure] = {}
        self._to_come: set[str] = set()

    @classmethod
    async def open(cls, data_dir: Path, options: LocalOptions | None = None) -> Self:
        """Lock the data directory.

        Raises:
            ConfigurationError: it cannot be used, or another server uses it.
        """
        data = await asyncio.to_thread(DataDirectory.open, data_dir)
        return cls(data, options or LocalOptions())

    @property
    def max_deployments(self) -> int:
        """How many deployments there may be at once."""
        return MAX_DEPLOYMENTS

    async def deploy(self, request: DeployRequest) -> str:
        """See :meth:`llamadeploy.api_server.backends.base.Backend.deploy`."""
        spec = await asyncio.to_thread(_read, request)
        if request.reload:
            await self._reload(spec, request)
        else:
            await self._create(spec, request)
        return spec.name

    async def expect(self, names: Iterable[str]) -> None:
        """Count ``names`` and what is recorded as starting: clients of theirs are told to come
        again, and not to give up. Until :meth:`restore` or :meth:`expect_no_more`."""
        self._to_come.update(names, await asyncio.to_thread(self._data.recorded))

    def expect_no_more(self, name: str) -> None:
        """The deployment has come up, or it will not."""
        self._to_come.discard(name)

    async def restore(self, *, besides: Sequence[str] = ()) -> None:
        """Bring back every recorded deployment except ``besides``, without waiting for workers.

        One that cannot be brought back (its port is taken, its record is damaged) stays recorded
        and is shown as failed; the others are not kept waiting for it.
        """
        recorded = await asyncio.to_thread(self._data.recorded)
        names = [each for each in recorded if each not in (*besides, *self._deployments)]
        self._to_come.update(names)
        for name in names:
            try:
                async with self._reserved(name, DeploymentState.STARTING):
                    await self._restore(name)
            except LlamaDeployError as error:
                log.error("deployment '%s' was not restored: %s", name, error)
            finally:
                self._to_come.discard(name)

    async def delete(self, name: str, drain: float | None = None) -> None:
        """See :meth:`llamadeploy.api_server.backends.base.Backend.delete`."""
        if name not in self._deployments and await self._delete_failed(name):
            return
        deployment = self._get(name)
        async with self._reserved(name, DeploymentState.STOPPING):
            await deployment.end_tasks(self._options.drain_seconds if drain is None else drain)
            del self._deployments[name]
            await deployment.stop(0)
            await asyncio.to_thread(self._data.folder(name).remove)

    async def _delete_failed(self, name: str) -> bool:
        """Remove one that could not be brought back; whether there was one."""
        if name not in self._failures or name in self._busy:
            return False
        if name not in await asyncio.to_thread(self._data.recorded):
            return False
        async with self._reserved(name, DeploymentState.STOPPING):
            await asyncio.to_thread(self._data.folder(name).remove)
        return True

    def names(self) -> list[str]:
        """The deployments that take tasks, in the order they were made."""
        return list(self._deployments)

    def control_plane(self, name: str) -> ControlPlane:
        """See :meth:`llamadeploy.api_server.backends.base.Backend.control_plane`."""
        return self._get(name).control_plane

    def user_interface(self, name: str) -> UserInterface:
        """See :meth:`llamadeploy.api_server.backends.base.Backend.user_interface`."""
        found = self._get(name).user_interface
        if found is None:
            raise NotFoundError(f"deployment '{name}' has no user interface; add 'ui' to its file")
        return found

    def status(self) -> Sequence[DeploymentStatus]:
        """Every deployment; those that serve first."""
        serving = [
            each.status(
                self._busy.get(name),
                failure.error if failure else None,
                self._progress.get(name),
                self._coming_up(name),
            )
            for name, each in self._deployments.items()
            for failure in [self._failures.get(name)]
        ]
        starting = [
            DeploymentStatus(
                name,
                state,
                details={"progress": self._progress.get(name), "services": self._coming_up(name)},
            )
            for name, state in self._busy.items()
            if name not in self._deployments
        ]
        failed = [
            DeploymentStatus(name, DeploymentState.FAILED, failure.error, {"failed_at": failure.at})
            for name, failure in self._failures.items()
            if name not in self._deployments and name not in self._busy
        ]
        return [*serving, *starting, *failed]

    def _coming_up(self, name: str) -> dict[str, Any]:
        """How the workers of a deployment that starts or reloads come along."""
        workers = self._coming.get(name)
        return {} if workers is None else {k: v.status() for k, v in workers.services.items()}

    async def problems(self) -> list[str]:
        """Why a deployment cannot take tasks."""
        found = [f"deployment '{name}' is being brought up" for name in self._to_come]
        for name, deployment in list(self._deployments.items()):
            found += [f"deployment '{name}': {each}" for each in await deployment.problems()]
        return found

    async def aclose(self) -> None:
        """Stop every deployment; what was accepted waits for the next start."""
        deployments = list(self._deployments.values())
        self._deployments.clear()
        drain = self._options.drain_seconds
        used = {key for deployment in deployments for key in deployment.environments}
        environments = EnvironmentCache(self._data.environments)
        try:
            await asyncio.gather(*(deployment.stop(drain) for deployment in deployments))
            await asyncio.to_thread(environments.prune, used, unused_seconds=_UNUSED_SECONDS)
        finally:
            self._data.close()

    # -- one deployment ------------------------------------------------------------------------

    async def _create(self, spec: DeploymentSpec, request: DeployRequest) -> None:
        name = spec.name
        if name in self._deployments:
            raise ConflictError(
                f"a deployment named '{name}' exists already; "
                "reload it (reload=true), or give the new one another name"
            )
        taken = set(self._deployments) | set(self._busy)
        if name not in taken and len(taken) >= self.max_deployments:
            raise ConflictError(
                f"there are {len(taken)} deployments, and no more than {self.max_deployments} "
                "are possible; delete one first"
            )
        async with self._reserved(name, DeploymentState.STARTING):
            deployment = await LocalDeployment.create(
                spec,
                request,
                self._data.folder(name),
                self._context(request, name),
                self._options,
                watch=lambda workers: self._coming.update({name: workers}),
            )
            self._take_up(deployment)

    async def _reload(self, spec: DeploymentSpec, request: DeployRequest) -> None:
        deployment = self._get(spec.name)
        async with self._reserved(spec.name, DeploymentState.RELOADING):
            await deployment.reload(
                spec,
                request,
                self._context(request, spec.name),
                watch=lambda workers: self._coming.update({spec.name: workers}),
            )

    async def _restore(self, name: str) -> None:
        record = await asyncio.to_thread(self._data.folder(name).read_record)
        request = _request(record)
        spec = await asyncio.to_thread(_read, request)
        if spec.name != name:
            raise ConfigurationError(f"the record of '{name}' holds a deployment '{spec.name}'")
        self._take_up(
            await LocalDeployment.restore(
                spec,
                request,
                record,
                self._data.folder(name),
                self._context(request, name),
                self._options,
            )
        )

    def _take_up(self, deployment: LocalDeployment) -> None:
        """It serves from now on, and its services may be changed."""
        name = deployment.spec.name
        self._deployments[name] = deployment
        deployment.services.reserve = lambda: self._reserved(name, DeploymentState.CHANGING)

    def _context(self, request: DeployRequest, name: str) -> SourceContext:
        """For what one change of a deployment fetches and installs."""

        def progress(text: str) -> None:
            log.info("deployment '%s': %s", name, text)
            self._progress[name] = text[:_PROGRESS_LENGTH]

        return SourceContext(
            request.base_path.absolute(), excluded=(self._data.root,), progress=progress
        )

    def _get(self, name: str) -> LocalDeployment:
        deployment = self._deployments.get(name)
        if deployment is not None:
            return deployment
        if name in self._to_come or name in self._busy:
            raise StoreUnavailableError(f"deployment '{name}' is starting; try again in a moment")
        raise NotFoundError("Deployment not found")

    @asynccontextmanager
    async def _reserved(self, name: str, state: DeploymentState) -> AsyncIterator[None]:
        """One change of a deployment at a time; its failure is kept for status."""
        if name in self._busy:
            raise ConflictError(
                f"deployment '{name}' is {self._busy[name].value} now; try again when that is done"
            )
        self._busy[name] = state
        try:
            yield
        except (LlamaDeployError, OSError) as error:
            self._note_failure(name, str(error))
            if isinstance(error, OSError):
                raise DeploymentError(f"deployment '{name}': {error}") from error
            raise
        else:
            self._failures.pop(name, None)
        finally:
            del self._busy[name]
            self._progress.pop(name, None)
            self._coming.pop(name, None)

    def _note_failure(self, name: str, error: str) -> None:
        self._failures.pop(name, None)
        self._failures[name] = _Failure(error, time.time())
        while len(self._failures) > _KEPT_FAILURES:
            del self._failures[next(iter(self._failures))]


def _read(request: DeployRequest) -> DeploymentSpec:
    """Parse and check the file. Blocking: a large file takes a while."""
    spec = load_deployment(request.text, file=request.file)
    problems = unsupported_on_laptop(spec)
    if problems:
        raise SpecError(problems)
    return spec


def _request(record: Record) -> DeployRequest:
    return DeployRequest(text=record.text, base_path=Path(record.base_path), file=record.file)
