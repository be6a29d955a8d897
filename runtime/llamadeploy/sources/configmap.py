"""Source ``configmap``: the files of a ConfigMap that came with the deployment file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from llamadeploy.sources.base import FetchedSource, SourceContext, SourceError
from llamadeploy.spec.deployment import SourceSpec


def fetch_configmap(source: SourceSpec, holder: Path, context: SourceContext) -> FetchedSource:
    """Write ``source.files`` into ``holder/<name>``."""
    root = holder / _checked("source.name", source.name or "source", nested=False)
    if not source.files:
        raise SourceError(
            f"source: the ConfigMap '{source.name}' has no files; "
            "put it, with its data, into the same file as the deployment"
        )
    root.mkdir()
    for name, text in source.files.items():
        target = root / _checked(f"ConfigMap '{source.name}'", name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SourceError(
                f"ConfigMap '{source.name}': the file '{name}' cannot be written: "
                f"{error.strerror or error}; give it a name of its own"
            ) from error
    return FetchedSource(root, {"type": "configmap", "name": root.name})


def _checked(field: str, name: str, *, nested: bool = True) -> PurePosixPath:
    path = PurePosixPath(name)
    parts = name.split("/")
    wrong = "\\" in name or any(ord(character) < 32 for character in name)
    if wrong or any(part in ("", ".", "..") for part in parts) or (len(parts) > 1 and not nested):
        raise SourceError(
            f"{field}: '{name}' is not a file name; "
            "use a relative path such as 'workflow.py', without '..'"
        )
    return path
