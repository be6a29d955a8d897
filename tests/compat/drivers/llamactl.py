"""Several commands of the 0.8.1 `llamactl`, each with its own exit code."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner
from llama_deploy.cli import llamactl


def run(commands: list[list[str]]) -> list[dict[str, Any]]:
    """`{"exit_code": int, "output": str}` of each list of arguments."""
    results = []
    for arguments in commands:
        done = CliRunner().invoke(llamactl, arguments)
        results.append({"exit_code": done.exit_code, "output": done.output})
    return results
