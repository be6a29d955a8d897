"""``llamadeploy prepare``: the pinned source into ``LLAMADEPLOY_SOURCE_DIR``, its dependencies into
an environment there.

Below the source, in ``.llamadeploy``: ``environment`` (a link to it, where there are dependencies)
and ``variables.json`` (of the env files). Run again it begins anew, as an init container has to.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from llamadeploy.api_server.backends.local.environment import service_variables
from llamadeploy.environments.cache import EnvironmentCache
from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.prepared import ENVIRONMENT, FOLDER, VARIABLES
from llamadeploy.preparing.command import run_command_line
from llamadeploy.preparing.document import SourceDocument
from llamadeploy.preparing.fetching import fetch
from llamadeploy.preparing.locking import locked
from llamadeploy.settings import PodSettings
from llamadeploy.sources.base import SourceContext
from llamadeploy.spec.deployment import ServiceSpec, SourceSpec


def prepare(settings: PodSettings, context: SourceContext) -> None:
    """Blocking.

    Raises:
        ConfigurationError: settings, source, env file or lock are wrong.
        DeploymentError: the dependencies cannot be installed.
        CommandCancelledError: ``context.cancellation`` was cancelled.
    """
    settings.require("source_dir", "source")
    assert settings.source_dir is not None  # noqa: S101 - just required
    document = SourceDocument.parse(settings.source)
    fetched = fetch(document, settings.source_dir, context)
    folder = fetched.folder / FOLDER
    if folder.exists():
        raise ConfigurationError(f"source: it has a '{FOLDER}' of its own; rename that")
    folder.mkdir()
    if document.envFiles:
        _write_variables(folder / VARIABLES, document.envFiles, fetched.folder)
    if settings.python_dependencies:
        _install(settings.python_dependencies, document.lock, fetched.folder, context)
    if fetched.commit is not None:
        context.progress(f"commit {fetched.commit}")


def _write_variables(file: Path, names: tuple[str, ...], folder: Path) -> None:
    source = SourceSpec(type="local", name=".")
    spec = ServiceSpec(name="service", path="a:b", source=source, env_files=list(names))
    variables = service_variables(spec, (folder,), at="source")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as target:
        json.dump(variables, target)


def _install(arguments: list[str], lock: Path | None, folder: Path, context: SourceContext) -> None:
    wanted, after = Dependencies.read(arguments, [folder]), None
    if lock is not None:
        try:
            text = lock.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{lock} cannot be read: {error.strerror}") from None
        wanted, after = locked(wanted, text)
    cache = EnvironmentCache(folder / FOLDER / "environments")
    found = cache.prepare(wanted, context.cancellation, context.progress, after)
    (folder / FOLDER / ENVIRONMENT).symlink_to(found.folder.relative_to(folder / FOLDER))
    # Downloads are of no more use: nothing is installed here again.
    shutil.rmtree(cache.root / "cache", ignore_errors=True)


def main() -> None:
    """The console entry."""
    run_command_line("prepare", prepare)
