"""The command ``llamadeploy api-server``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from llamadeploy.api_server.options import DEFAULT_DATA_DIR, ServeOptions
from llamadeploy.api_server.process import Serving, run
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.settings import ApiserverSettings, load_settings

TOKEN_VARIABLE = "LLAMA_DEPLOY_TOKEN"  # noqa: S105 - the variable's name


@click.command("api-server", short_help="Serve deployments on this machine.")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on, 0 for a free one.  [default: 4501]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Holds everything that is kept.  [default: ~/.local/share/llamadeploy/api-server, or what "
    "the platform has in its place]",
)
@click.option(
    "--base-path",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of FILE's relative paths.  [default: FILE's own]",
)
@click.option(
    "--token", envvar=TOKEN_VARIABLE, show_envvar=True, help="What clients must send as a token."
)
@click.option(
    "--insecure-no-token", is_flag=True, help="Allow --host beyond this machine without a token."
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="What running tasks get to end when the server stops.",
)
@click.option(
    "--retention",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    envvar="LLAMA_DEPLOY_APISERVER_RETENTION",
    help="How long finished tasks and idle sessions are kept.  [default: 86400, a day]",
)
def api_server(
    host: str | None, port: int | None, data_dir: Path | None, token: str | None, **others: Any
) -> None:
    """Serve deployments on this machine, each service replica in a process of its own.

    FILE is a deployment file to bring up at the start: LlamaDeploy's own form, or a Kubernetes
    manifest with `kind: Deployment` of llamadeploy.io. Without it the server waits for
    `llamactl deploy`. What ran in the data directory before is brought back, with its tasks.

    LLAMA_DEPLOY_APISERVER_HOST, _PORT, _RC_PATH, _DEPLOYMENTS_PATH and _PROMETHEUS_ENABLED are
    read as in LlamaDeploy 0.8.1; options win. Metrics are at /status/metrics, and also on a port
    of their own where _PROMETHEUS_PORT is set.

    \b
    Examples:
      llamadeploy api-server deployment.yaml
      llamadeploy api-server --port 0 --data-dir ./data --log-format json
    """
    try:
        settings = load_settings(ApiserverSettings)
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    options = ServeOptions(
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        data_dir=data_dir or settings.deployments_path or DEFAULT_DATA_DIR,
        rc_path=settings.rc_path,
        token=token or None,
        metrics=settings.prometheus_enabled,
        # Only where it is set: a fixed port that nobody asked for is in a second server's way.
        metrics_port=(
            settings.prometheus_port if "prometheus_port" in settings.model_fields_set else None
        ),
        **others,
    )
    sys.exit(run(options, on_ready=_announce))


def _announce(serving: Serving) -> None:
    click.echo(f"The API server listens on {serving.url}")
    for status in serving.backend.status():
        click.echo(f"  deployment {status.name}: {status.state.value}")
