from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml
from click.testing import Result

from llamadeploy.spec import load_deployment

Run = Callable[..., Result]
QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"


def test_a_deployment_file_becomes_custom_resources_with_its_code(run: Run) -> None:
    result = run("manifest", str(QUICKSTART / "deployment-file.yaml"))
    assert result.exit_code == 0, result.output
    kinds = [document["kind"] for document in yaml.safe_load_all(result.output)]
    assert kinds == ["ConfigMap", "Deployment"]
    spec = load_deployment(result.output)
    original = load_deployment((QUICKSTART / "deployment-file.yaml").read_text())
    assert set(spec.services) == set(original.services)
    assert "class EchoWorkflow" in "".join(spec.services["echo_workflow"].source.files.values())


def test_what_is_wrong_is_said_with_file_and_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text("name: x\ncontrol-plane: {}\nservices:\n  a:\n    nam: A\n")
    result = run("manifest", str(file))
    assert result.exit_code == 1
    assert f"{file}:5: services.a.nam" in result.output


def test_a_source_folder_that_is_missing_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "name: x\ncontrol-plane: {}\nservices:\n  a:\n    name: A\n"
        "    source: {type: local, name: nowhere}\n    path: w:a\n"
    )
    result = run("manifest", str(file))
    assert result.exit_code == 1
    assert "source.name: 'nowhere' does not exist" in result.output


def test_a_file_that_is_no_text_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.bin").write_bytes(b"\xff\xfe\x00")
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "name: x\ncontrol-plane: {}\nservices:\n  a:\n    name: A\n"
        "    source: {type: local, name: src}\n    path: w:a\n"
    )
    result = run("manifest", str(file))
    assert result.exit_code == 1
    assert "'model.bin' is not UTF-8 text" in result.output
