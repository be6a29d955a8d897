"""A deployment's user interface, from its section of the file to what can be started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from llamadeploy.api_server.backends.local.data_directory import ServiceRecord
from llamadeploy.api_server.backends.local.environment import service_variables
from llamadeploy.api_server.backends.local.prepare import secret_values
from llamadeploy.api_server.backends.local.workers import redactor
from llamadeploy.exceptions import ConfigurationError, DeploymentError, LlamaDeployError
from llamadeploy.sources.base import SourceContext
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import DeploymentSpec, UiSpec
from llamadeploy.ui.packages import install_packages
from llamadeploy.ui.prepare import PreparedUi, find_project, prepared_ui, project_of, without_logins

P = ParamSpec("P")
T = TypeVar("T")

HOLDER = "@ui"
"""The folder of its code in a generation; no service can have this name."""

_FIELDS = ("source", "path", "env", "ts-dependencies")


async def prepare_front_end(
    spec: DeploymentSpec, generation: Path, cache: Path, context: SourceContext
) -> PreparedUi | None:
    """Fetch the front end below ``generation`` and install its packages.

    Args:
        cache: where installed packages are kept from one deploy to the next.
        context: its ``cancellation`` is used when this call is cancelled.

    Raises:
        ConfigurationError: the section or the source is wrong, or Node.js is missing.
        DeploymentError: the packages could not be installed.
    """
    if spec.ui is None:
        return None
    holder = generation / HOLDER
    return await cancellable(context, _prepare, spec.ui, spec.name, holder, cache, context)


async def cancellable(
    context: SourceContext, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """``function(*args)`` on a thread. When this call is cancelled, so is what the thread does, and
    is waited for: nothing may write where the caller then cleans up."""
    work = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        context.cancellation.cancel()
        await asyncio.wait({work})
        raise


def front_end_record(prepared: PreparedUi | None, generation: Path) -> ServiceRecord | None:
    """What :func:`recorded_front_end` makes this of again."""
    if prepared is None:
        return None
    root = str(prepared.folder.relative_to(generation))
    return ServiceRecord(root=root, variables=prepared.variables)


def recorded_front_end(
    spec: DeploymentSpec, generation: Path, record: ServiceRecord | None
) -> PreparedUi | None:
    """The front end as it ran before, its packages installed; ``None`` where it is not there.

    Raises:
        ConfigurationError: there is no Node.js any more.
    """
    if spec.ui is None or record is None or not (generation / record.root).is_dir():
        return None
    return _check(spec.ui, spec.name, generation / record.root, record.variables)[0]


def _prepare(
    spec: UiSpec, deployment: str, holder: Path, cache: Path, context: SourceContext
) -> PreparedUi:
    try:
        root = fetch_source(spec.source, holder, context).root
        beside = (context.base_path,) if spec.source.type == "local" else ()
        variables = service_variables(spec, (*beside, holder, root), "ui")
        folder = find_project(root, holder, spec.path)
        prepared, package = _check(spec, deployment, folder, variables)
    except ConfigurationError as error:
        raise _of_ui(error) from error
    project = project_of(prepared, spec, package)
    redact = redactor((*prepared.secrets, *secret_values(project.environ, ())))

    def hide(text: str) -> str:
        return redact(without_logins(text))

    try:
        cached = install_packages(
            project,
            cache,
            cancellation=context.cancellation,
            progress=lambda line: context.progress(f"ui: {hide(line)}"),
        )
    except (ConfigurationError, DeploymentError) as error:
        raise _of_ui(type(error)(hide(str(error)))) from error
    return replace(prepared, packages="cached" if cached else "installed")


def _check(
    spec: UiSpec, deployment: str, folder: Path, variables: dict[str, str]
) -> tuple[PreparedUi, dict[str, Any]]:
    secrets = secret_values(variables, spec.secret_env)
    return prepared_ui(spec, deployment, folder, variables, secrets)


def _of_ui(error: LlamaDeployError) -> LlamaDeployError:
    """The same error, with the place in the file in front."""
    text = str(error)
    if text.startswith("ui."):
        return error
    return type(error)(f"ui.{text}" if text.startswith(_FIELDS) else f"ui: {text}")
