"""Running ``llamadeploy resolve`` and ``prepare`` as pods do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def source_dir(tmp_path: Path) -> Path:
    """Not there yet; its parent is the pod's volume."""
    return tmp_path / "volume" / "code"


@pytest.fixture
def run(tmp_path: Path, source_dir: Path) -> Run:
    """``run(command, source, dependencies, cwd=..., **variables)``."""

    def _run(
        command: str,
        source: dict[str, Any] | None,
        dependencies: list[str] | None = None,
        *,
        cwd: Path = tmp_path,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")
        environ = {name: os.environ[name] for name in kept if name in os.environ}
        environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        environ["LLAMADEPLOY_SOURCE_DIR"] = str(source_dir)
        if source is not None:
            environ["LLAMADEPLOY_SOURCE"] = json.dumps(source)
        if dependencies is not None:
            environ["LLAMADEPLOY_PYTHON_DEPENDENCIES"] = json.dumps(dependencies)
        return subprocess.run(
            [sys.executable, "-P", "-m", "llamadeploy", command],
            env=environ | variables,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return _run


@pytest.fixture
def resolved(run: Run) -> Callable[..., dict[str, Any]]:
    """What a successful ``resolve`` prints."""

    def _resolved(*arguments: Any, **options: Any) -> dict[str, Any]:
        done = run("resolve", *arguments, **options)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return _resolved


@pytest.fixture
def prepared(run: Run, source_dir: Path) -> Callable[..., Path]:
    """A successful ``prepare``; the source's folder."""

    def _prepared(*arguments: Any, **options: Any) -> Path:
        done = run("prepare", *arguments, **options)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        return source_dir

    return _prepared
