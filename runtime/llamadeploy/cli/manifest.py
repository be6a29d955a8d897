"""``llamactl manifest``."""

from __future__ import annotations

from pathlib import Path

import click

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.spec import load_deployments, to_manifests


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def manifest(file: Path) -> None:
    """Print the deployment file FILE as Kubernetes custom resources.

    The output is what 'kubectl apply -f -' takes, and 'llamactl serve' too.
    """
    try:
        found = load_deployments(file.read_text(), file=str(file))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    click.echo("---\n".join(to_manifests(spec) for spec in found), nl=False)
