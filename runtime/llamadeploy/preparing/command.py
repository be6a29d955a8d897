"""What ``resolve`` and ``prepare`` share as processes: settings, signals, exit codes.

Exit codes: 0 done, 1 failed and may be tried again, 2 settings that no second try makes right.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from llamadeploy.commands import Cancellation
from llamadeploy.exceptions import ConfigurationError, LlamaDeployError
from llamadeploy.settings import PodSettings, forget_secrets, variable
from llamadeploy.sources.base import SourceContext, SourceError


def run_command_line(name: str, action: Callable[[PodSettings, SourceContext], None]) -> None:
    """Parse the command line, which has no options, and run ``action``."""

    @click.command(name, help=f"{action.__doc__}\n\nSettings are LLAMADEPLOY_* variables.")
    def command() -> None:
        _run(action)

    command(prog_name=f"llamadeploy {name}")


def _run(action: Callable[[PodSettings, SourceContext], None]) -> NoReturn:
    cancellation = Cancellation()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: cancellation.cancel())
    code = 0
    try:
        settings = PodSettings.from_env()
        index = settings.index_url
        forget_secrets(os.environ)
        if index is not None:
            # The one secret that an installer, which is a process of its own, has to know.
            os.environ[variable("index_url")] = index.get_secret_value()
        action(settings, SourceContext(Path.cwd(), cancellation=cancellation, progress=_tell))
    except LlamaDeployError as error:
        _tell(f"Error: {error}")
        wrong = isinstance(error, ConfigurationError) and not isinstance(error, SourceError)
        code = 2 if wrong else 1
    sys.exit(code)


def _tell(text: str) -> None:
    """To standard error: standard output is for the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
