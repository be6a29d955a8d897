from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from llamadeploy.spec import load_deployment

Run = Callable[..., Result]


def test_a_new_project_is_a_valid_deployment(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "my-project"
    result = run("init", str(folder))
    assert result.exit_code == 0, result.output
    spec = load_deployment((folder / "deployment.yaml").read_text())
    assert spec.name == "my-project"
    assert spec.default_service == "echo_workflow"
    compile((folder / "src" / "workflow.py").read_text(), "workflow.py", "exec")


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "deployment.yaml").write_text("mine")
    result = run("init", str(tmp_path))
    assert result.exit_code == 1
    assert "already has deployment.yaml" in result.output
    assert (tmp_path / "deployment.yaml").read_text() == "mine"
    assert not (tmp_path / "src").exists()
