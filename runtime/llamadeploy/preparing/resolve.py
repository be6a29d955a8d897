"""``llamadeploy resolve``: which commit and which packages a source means today.

Prints one line of JSON, ``{"commit": full id or null, "lock": requirements with hashes or ""}``.
"""

from __future__ import annotations

import json
import shutil
import sys

from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.preparing.command import run_command_line
from llamadeploy.preparing.document import SourceDocument
from llamadeploy.preparing.fetching import fetch
from llamadeploy.preparing.locking import lock
from llamadeploy.settings import PodSettings
from llamadeploy.sources.base import SourceContext


def resolve(settings: PodSettings, context: SourceContext) -> None:
    """Fetch into ``LLAMADEPLOY_SOURCE_DIR``, resolve, print. Blocking.

    Raises:
        ConfigurationError: settings, source or a dependency are wrong.
        DeploymentError: the dependencies cannot be resolved.
        CommandCancelledError: ``context.cancellation`` was cancelled.
    """
    settings.require("source_dir", "source")
    assert settings.source_dir is not None  # noqa: S101 - just required
    fetched = fetch(SourceDocument.parse(settings.source), settings.source_dir, context)
    text = ""
    if settings.python_dependencies:
        scratch = fetched.folder.parent / f".{fetched.folder.name}.resolving"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            wanted = Dependencies.read(settings.python_dependencies, [fetched.folder])
            text = lock(wanted, scratch, context.cancellation, context.progress)
        finally:
            shutil.rmtree(scratch)
    sys.stdout.write(json.dumps({"commit": fetched.commit, "lock": text}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """The console entry."""
    run_command_line("resolve", resolve)
