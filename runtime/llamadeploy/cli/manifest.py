"""``llamactl manifest``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.sources.base import SourceContext, SourceError
from llamadeploy.sources.local import fetch_local
from llamadeploy.spec import DeploymentSpec, load_deployments, to_manifests


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def manifest(file: Path) -> None:
    """Print the deployment file FILE as Kubernetes custom resources.

    The output is what 'kubectl apply -f -' takes, and 'llamactl serve' too. The code of local
    sources goes into ConfigMaps, as text.
    """
    try:
        found = load_deployments(file.read_text(encoding="utf-8-sig"), file=str(file))
        texts = [to_manifests(spec, local_files=_local_files(spec, file.parent)) for spec in found]
    except (ConfigurationError, UnicodeDecodeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo("---\n".join(texts), nl=False)


def _local_files(spec: DeploymentSpec, base_path: Path) -> dict[str, dict[str, str]]:
    """The text of each local source's files, by relative path."""
    components = [*spec.services.values(), *([spec.ui] if spec.ui else [])]
    sources = {c.source.name or ".": c.source for c in components if c.source.type == "local"}
    files = {}
    for name, source in sources.items():
        with tempfile.TemporaryDirectory() as holder:
            root = fetch_local(source, Path(holder), SourceContext(base_path)).root
            files[name] = {
                path.relative_to(root).as_posix(): _text(path, root)
                for path in sorted(root.rglob("*"))
                if path.is_file()
            }
    return files


def _text(path: Path, root: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"source: '{path.relative_to(root)}' is not UTF-8 text, which is all that a ConfigMap "
            "can hold for us; use a git source, or move the file out of the source folder"
        ) from error
