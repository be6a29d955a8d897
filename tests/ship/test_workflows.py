"""The workflow of GitHub Actions: it can only be checked here, not run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))


def lint(actionlint: Path, path: Path) -> subprocess.CompletedProcess[str]:
    # Without the programs that it would call where they happen to be installed.
    command = [actionlint, "-no-color", "-shellcheck=", "-pyflakes=", path]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint(actionlint: Path, path: Path, tmp_path: Path) -> None:
    done = lint(actionlint, path)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text().replace("runs-on: ubuntu", "runs-on: ubuntoo", 1))
    assert lint(actionlint, wrong).returncode == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_it_calls_is_there(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = set(re.findall(r"\bmake ([a-z0-9-]+)", text))
    assert called, path
    assert called <= targets
    for pattern in re.findall(r"hashFiles\(([^)]*)\)", text):
        for each in re.findall(r"'([^']+)'", pattern):
            assert list(ROOT.glob(each)), f"{each} matches nothing"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_scripts_are_valid(path: Path) -> None:
    import yaml

    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                script = re.sub(r"\$\{\{[^}]*\}\}", "x", step["run"])
                done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
                assert done.returncode == 0, f"{script}\n{done.stderr}"
