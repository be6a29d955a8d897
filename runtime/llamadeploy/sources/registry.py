"""Which source type is fetched by what."""

from __future__ import annotations

from pathlib import Path

from llamadeploy.exceptions import UnsupportedFeatureError
from llamadeploy.sources.base import FetchedSource, Source, SourceContext
from llamadeploy.sources.configmap import fetch_configmap
from llamadeploy.sources.git import fetch_git
from llamadeploy.sources.local import fetch_local
from llamadeploy.spec.deployment import SourceSpec

SOURCES: dict[str, Source] = {
    "local": fetch_local,
    "git": fetch_git,
    "configmap": fetch_configmap,
}


def fetch_source(source: SourceSpec, holder: Path, context: SourceContext) -> FetchedSource:
    """Put the code into ``holder``, which is made here. Blocking.

    Raises:
        UnsupportedFeatureError: no such source here.
        SourceError: it could not be fetched.
        CommandCancelledError: ``context.cancellation`` was cancelled.
    """
    fetch = SOURCES.get(source.type)
    if fetch is None:
        raise UnsupportedFeatureError(
            f"source.type: '{source.type}' is not available here; use one of: {', '.join(SOURCES)}"
        )
    holder.mkdir(parents=True)
    return fetch(source, holder, context)
