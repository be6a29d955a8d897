"""Run several commands of the 0.8.1 `llamactl` in one process, each with its own exit code.

Standard input: a JSON list of argument lists. Standard output: a JSON list of
`{"exit_code": int, "output": str}`. One process, because importing 0.8.1 takes seconds.
"""

from __future__ import annotations

import json
import sys

from click.testing import CliRunner
from llama_deploy.cli import llamactl


def main() -> None:
    results = []
    for arguments in json.load(sys.stdin):
        done = CliRunner().invoke(llamactl, arguments)
        results.append({"exit_code": done.exit_code, "output": done.output})
    json.dump(results, sys.stdout)


main()
