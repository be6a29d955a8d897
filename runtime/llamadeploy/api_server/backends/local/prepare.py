"""Everything about services that is done, and can fail, before the first process starts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from llamadeploy.api_server.backends.local.data_directory import ServiceRecord
from llamadeploy.api_server.backends.local.environment import service_variables
from llamadeploy.environments.cache import Environment, EnvironmentCache
from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.exceptions import ConfigurationError, DeploymentError
from llamadeploy.sources.base import FetchedSource, SourceContext
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import DeploymentSpec, ServiceSpec, SourceSpec

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|DSN", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Shorter values would black out ordinary words of a log."""


@dataclass(frozen=True, slots=True)
class PreparedService:
    """A service whose code is in place.

    Attributes:
        root: the folder with its code.
        variables: its own environment, env-files included.
        origin: where the code came from, for status.
        environment: the Python environment with its dependencies; ``None`` where it has none.
    """

    spec: ServiceSpec
    root: Path
    variables: dict[str, str] = field(repr=False)
    origin: dict[str, str] = field(default_factory=dict)
    environment: Environment | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in a log or response, longest first."""
        return secret_values(self.variables, self.spec.secret_env)

    def record(self, generation: Path) -> ServiceRecord:
        """What :func:`recorded_services` makes this of again."""
        return ServiceRecord(
            root=str(self.root.relative_to(generation)),
            variables=self.variables,
            origin=self.origin,
            environment=self.environment.key if self.environment else "",
        )


def secret_values(variables: Mapping[str, str], secret_env: Collection[str]) -> tuple[str, ...]:
    """The values of the variables that are secret, or whose names say so, longest first."""
    values = {
        value
        for name, value in variables.items()
        if name in secret_env or _SECRET_NAME.search(name)
    }
    lines = {line.strip() for value in values for line in value.splitlines()}
    found = {each for each in values | lines if len(each) >= _SHORTEST_SECRET}
    return tuple(sorted(found, key=len, reverse=True))


def prepare_services(
    spec: DeploymentSpec, generation: Path, context: SourceContext, environments: EnvironmentCache
) -> dict[str, PreparedService]:
    """Put the code of every service below ``generation``, read its env-files and install its
    dependencies. Blocking.

    Raises:
        ConfigurationError: a source, env-file or dependency is wrong; the message says whose.
        DeploymentError: dependencies could not be installed.
        CommandCancelledError: ``context.cancellation`` was cancelled.
    """
    fetched: dict[str, FetchedSource] = {}
    services = {
        name: _fetch(service, generation, _of(service, context), fetched)
        for name, service in spec.services.items()
    }
    return {
        name: _with_environment(service, generation, _of(service.spec, context), environments)
        for name, service in services.items()
    }


def recorded_services(
    spec: DeploymentSpec,
    generation: Path,
    records: dict[str, ServiceRecord],
    context: SourceContext,
    environments: EnvironmentCache,
) -> dict[str, PreparedService] | None:
    """The services as they ran before, without touching their sources; ``None`` where their code
    is not there any more. An environment that is not there any more is built again. Blocking.

    Raises:
        ConfigurationError, DeploymentError: as :func:`prepare_services`, for an environment.
    """

    prepared = {}
    for name, service in spec.services.items():
        record = records.get(name)
        if record is None or not (generation / record.root).is_dir():
            return None
        environment = environments.find(record.environment) if record.environment else None
        found = PreparedService(
            service, generation / record.root, record.variables, record.origin, environment
        )
        if environment is None:
            found = _with_environment(found, generation, _of(service, context), environments)
        prepared[name] = found
    return prepared


def _fetch(
    service: ServiceSpec,
    generation: Path,
    context: SourceContext,
    fetched: dict[str, FetchedSource],
) -> PreparedService:
    holder = generation / service.name
    with _named(service):
        found = _fetch_once(service.source, holder, context, fetched)
        beside = (context.base_path,) if service.source.type == "local" else ()
        variables = service_variables(service, (*beside, holder, found.root))
        return PreparedService(service, found.root, variables, found.origin)


def _fetch_once(
    source: SourceSpec, holder: Path, context: SourceContext, fetched: dict[str, FetchedSource]
) -> FetchedSource:
    """Services of one branch run one commit of it, even when it moves on meanwhile."""
    if source.type != "git":
        return fetch_source(source, holder, context)
    key = source.model_dump_json()
    first = fetched.get(key)
    if first is None:
        fetched[key] = first = fetch_source(source, holder, context)
        return first
    root = holder / first.root.name
    shutil.copytree(first.root, root, symlinks=True)
    return FetchedSource(root, first.origin)


def _with_environment(
    service: PreparedService,
    generation: Path,
    context: SourceContext,
    environments: EnvironmentCache,
) -> PreparedService:
    spec = service.spec
    if not spec.python_dependencies:
        return service
    folders = [service.root, generation / spec.name]
    if spec.source.type == "local":
        folders.append(context.base_path)
    with _named(spec):
        dependencies = Dependencies.read(spec.python_dependencies, folders)
        environment = environments.prepare(dependencies, context.cancellation, context.progress)
    return replace(service, environment=environment)


def _of(service: ServiceSpec, context: SourceContext) -> SourceContext:
    """The context, with the service's name in front of its progress."""
    return replace(context, progress=lambda text: context.progress(f"{service.name}: {text}"))


@contextmanager
def _named(service: ServiceSpec) -> Iterator[None]:
    """Put the place in the file in front of an error."""
    try:
        yield
    except (ConfigurationError, DeploymentError) as error:
        prefix = f"services.{service.name}"
        if str(error).startswith(prefix):
            raise
        raise type(error)(f"{prefix}.{error}") from error
