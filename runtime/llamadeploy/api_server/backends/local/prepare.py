"""Everything about services that is done, and can fail, before the first process starts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamadeploy.api_server.backends.local.data_directory import ServiceRecord
from llamadeploy.api_server.backends.local.environment import service_variables
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.sources.base import SourceContext
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import DeploymentSpec, ServiceSpec

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|DSN", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Shorter values would black out ordinary words of a log."""


@dataclass(frozen=True, slots=True)
class PreparedService:
    """A service whose code is in place.

    Attributes:
        root: the folder with its code.
        variables: its own environment, env-files included.
    """

    spec: ServiceSpec
    root: Path
    variables: dict[str, str] = field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in a log or response, longest first."""
        return secret_values(self.variables, self.spec.secret_env)

    def record(self, generation: Path) -> ServiceRecord:
        """What :func:`recorded_services` makes this of again."""
        return ServiceRecord(root=str(self.root.relative_to(generation)), variables=self.variables)


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
    spec: DeploymentSpec, generation: Path, context: SourceContext
) -> dict[str, PreparedService]:
    """Put the code of every service below ``generation`` and read its env-files. Blocking.

    Raises:
        ConfigurationError: a source or env-file is wrong; the message names the service.
    """
    return {name: _prepare(service, generation, context) for name, service in spec.services.items()}


def recorded_services(
    spec: DeploymentSpec, generation: Path, records: dict[str, ServiceRecord]
) -> dict[str, PreparedService] | None:
    """The services as they ran before, without touching their sources; ``None`` where their code
    is not there any more."""
    prepared = {}
    for name, service in spec.services.items():
        record = records.get(name)
        if record is None or not (generation / record.root).is_dir():
            return None
        prepared[name] = PreparedService(service, generation / record.root, record.variables)
    return prepared


def _prepare(service: ServiceSpec, generation: Path, context: SourceContext) -> PreparedService:
    holder = generation / service.name
    try:
        root = fetch_source(service.source, holder, context).root
        beside = (context.base_path,) if service.source.type == "local" else ()
        variables = service_variables(service, (*beside, holder, root))
        return PreparedService(service, root, variables)
    except ConfigurationError as error:
        prefix = f"services.{service.name}"
        if str(error).startswith(prefix):
            raise
        raise type(error)(f"{prefix}.{error}") from error
