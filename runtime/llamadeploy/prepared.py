"""What ``llamadeploy prepare`` leaves below a source for the worker that runs it."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = ".llamadeploy"
"""Hidden: it is no part of the code's version."""

ENVIRONMENT = "environment"
VARIABLES = "variables.json"


def prepared_variables(source_dir: Path) -> dict[str, str]:
    """The variables of the source's env files; none where nothing was prepared."""
    try:
        text = (source_dir / FOLDER / VARIABLES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    found: dict[str, str] = json.loads(text)
    return found
