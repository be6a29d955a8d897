"""``llamadeploy``: every process of a deployment by its name."""

from __future__ import annotations

import importlib
import sys

import click

from llamadeploy._version import __version__

_ENTRY_POINTS = {
    "api-server": ("llamadeploy.api_server.process", "Serve deployments on this machine."),
    "control-plane": (
        "llamadeploy.control_plane.process",
        "Serve one deployment's API, and its queue where that is 'simple'.",
    ),
    "orchestrator": (
        "llamadeploy.orchestration.process",
        "Do what follows from tasks, where queue and store are shared.",
    ),
    "prepare": (
        "llamadeploy.preparing.prepare",
        "Put a service's source and dependencies in place (in a pod).",
    ),
    "resolve": (
        "llamadeploy.preparing.resolve",
        "Print the commit and the locked dependencies of a source (in a pod).",
    ),
    "rotate-keys": (
        "llamadeploy.api_server.keys",
        "Give a deployment of this machine a new signing key.",
    ),
    "worker": ("llamadeploy.worker.process", "Run one replica of one service."),
}
"""Name -> module with ``main()``, and its line in the help. Imported when used: a worker must not
load the API server, nor a --help everything."""


_WITHOUT_OPTIONS = ("prepare", "resolve", "worker")
"""What pods run: all that these are told is in their environment."""


class _Processes(click.Group):
    """Imports the chosen process only; its own ``main`` parses the rest of the line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_ENTRY_POINTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ENTRY_POINTS:
            return None
        make = _plain if cmd_name in _WITHOUT_OPTIONS else _forward
        return make(cmd_name, *_ENTRY_POINTS[cmd_name])


def _plain(name: str, module: str, summary: str) -> click.Command:
    """A command without options."""
    told = "Settings are LLAMADEPLOY_* variables in its environment: see docs/processes.md."

    @click.command(
        name,
        help=f"{summary}\n\n{told}",
        short_help=summary,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    def command() -> None:
        sys.argv = [f"llamadeploy {name}"]
        sys.exit(importlib.import_module(module).main())

    return command


def _forward(name: str, module: str, summary: str) -> click.Command:
    """A command that hands everything after its name, ``--help`` included, to ``module.main``."""

    @click.command(
        name,
        help=summary,
        short_help=summary,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        sys.argv = [f"llamadeploy {name}", *arguments]
        sys.exit(importlib.import_module(module).main())

    return command


@click.command(
    cls=_Processes,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="To deploy and to run tasks use `llamactl`; `llamactl serve FILE` starts quickest.",
)
@click.version_option(__version__, prog_name="llamadeploy")
def main() -> None:
    """Run one process of a LlamaDeploy deployment.

    On a laptop `api-server` is the only one to start yourself: it runs the control plane, the
    message queue and a worker process for every replica. In a cluster the operator starts the
    others; they read LLAMADEPLOY_* from their environment.
    """


if __name__ == "__main__":
    main()
