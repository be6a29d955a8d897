"""``llamactl init``: a project to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

FILES = {"deployment.yaml": "deployment.yaml.txt", "src/workflow.py": "workflow.py.txt"}
"""File of the new project to the template it is made from."""


@click.command()
@click.option("--name", help="Name of the deployment; default: the name of the folder.")
@click.argument(
    "directory", default=".", type=click.Path(file_okay=False, resolve_path=True, path_type=Path)
)
def init(name: str | None, directory: Path) -> None:
    """Make a project in DIRECTORY: a deployment file and a workflow that runs as it is.

    Nothing that exists is overwritten.
    """
    taken = [file for file in FILES if (directory / file).exists()]
    if taken:
        raise click.ClickException(
            f"{directory} already has {' and '.join(taken)}; nothing was written. "
            "Choose an empty folder."
        )
    chosen = name or directory.name
    templates = resources.files("llamadeploy.cli") / "templates"
    for file, template in FILES.items():
        target = directory / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((templates / template).read_text().replace("{name}", chosen))
        click.echo(f"Wrote {target}")
    click.echo(
        f"\nStart it:   llamactl serve {directory / 'deployment.yaml'}"
        f"\nRun a task: llamactl run -d {chosen} -a message 'Hello!'"
    )
