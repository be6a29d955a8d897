"""Gets the code of a :class:`SourceDocument` into a folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.preparing.document import ConfigMapDocument, SourceDocument, git_spec
from llamadeploy.sources.base import SourceContext, SourceError
from llamadeploy.sources.registry import fetch_source
from llamadeploy.spec.deployment import SourceSpec


@dataclass(frozen=True, slots=True)
class Fetched:
    """Code in its place; ``commit`` is the full id of a git commit."""

    folder: Path
    commit: str | None = None


def fetch(document: SourceDocument, folder: Path, context: SourceContext) -> Fetched:
    """Put the code into ``folder``; what was there is replaced, so that it can be tried again.
    Blocking.

    Raises:
        SourceError: it cannot be fetched.
        ConfigurationError: a mounted file cannot be read.
        CommandCancelledError: ``context.cancellation`` was cancelled.
    """
    folder = folder.absolute()
    scratch = folder.parent / f".{folder.name}.fetching"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in (scratch, folder):
            if left.exists():
                shutil.rmtree(left)
        scratch.mkdir()
        root, commit = _fetch(document, scratch, context)
        root.rename(folder)
        shutil.rmtree(scratch)
    except OSError as error:
        raise SourceError(
            f"source: {folder} cannot be written: {error.strerror or error}; "
            "give the volume more room, and make it writable"
        ) from error
    return Fetched(folder, commit)


def _fetch(
    document: SourceDocument, scratch: Path, context: SourceContext
) -> tuple[Path, str | None]:
    if document.git is not None:
        found = fetch_source(git_spec(document.git), scratch / "git", context)
        commit = found.origin["commit"]
        if document.git.commit is not None and commit != document.git.commit:
            raise SourceError(f"source: got commit {commit} instead of {document.git.commit}")
        return found.root, commit
    if document.configMap is not None:
        return _config_map(document.configMap, scratch / "files"), None
    here = Path.cwd()
    if here == Path(here.anchor):
        raise SourceError(
            "source: the image has no working directory; "
            "add WORKDIR to its Dockerfile, with the folder of the code"
        )
    local = replace(context, base_path=here, excluded=(*context.excluded, scratch.parent))
    return fetch_source(SourceSpec(type="local", name="."), scratch / "image", local).root, None


def _config_map(document: ConfigMapDocument, target: Path) -> Path:
    """Kubernetes mounts each key as a link into a hidden folder, which it replaces at a change."""
    if not document.dir.is_dir():
        raise ConfigurationError(f"{document.dir} is not there; mount the ConfigMap")
    target.mkdir()
    for entry in sorted(document.dir.iterdir()):
        if entry.name.startswith(".."):
            continue
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)
    if not any(os.scandir(target)):
        raise SourceError(
            f"source: the ConfigMap '{document.name}' has no files; give it the workflow's code"
        )
    return target
