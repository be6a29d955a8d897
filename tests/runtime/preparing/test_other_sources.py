"""``prepare`` of ConfigMap and image sources, and env files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamadeploy.prepared import prepared_variables


def mount(folder: Path, files: dict[str, str]) -> Path:
    """A ConfigMap as Kubernetes mounts it."""
    data = folder / "..2026_11_22"
    for name, text in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    (folder / "..data").symlink_to(data.name)
    for top in {name.partition("/")[0] for name in files}:
        (folder / top).symlink_to(f"..data/{top}")
    return folder


def test_a_mounted_config_map_is_copied(
    tmp_path: Path, prepared: Callable[..., Path], resolved: Callable[..., Any]
) -> None:
    folder = mount(tmp_path / "mount", {"workflow.py": "a = 1\n", "package/b.py": "b = 2\n"})
    source = {"configMap": {"name": "code", "dir": str(folder)}}
    code = prepared(source)
    (folder / "..2026_11_22" / "workflow.py").write_text("changed\n")
    assert (code / "workflow.py").read_text() == "a = 1\n"
    assert (code / "package" / "b.py").read_text() == "b = 2\n"
    assert not (code / "workflow.py").is_symlink()
    assert resolved(source) == {"commit": None, "lock": ""}


def test_an_empty_config_map_is_an_error(tmp_path: Path, run: Any) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    done = run("prepare", {"configMap": {"name": "code", "dir": str(folder)}})
    assert done.returncode == 1 and "'code' has no files" in done.stderr


def test_an_image_is_its_working_directory(
    tmp_path: Path, prepared: Callable[..., Path], run: Any
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "workflow.py").write_text("a = 1\n")
    (image / "service.env").write_text("GREETING=hello\nLEVEL='a b'\n")
    (image / "second.env").write_text("GREETING=good day\n")
    code = prepared({"image": {}, "envFiles": ["service.env", "second.env"]}, cwd=image)
    assert (code / "workflow.py").read_text() == "a = 1\n"
    assert prepared_variables(code) == {"GREETING": "good day", "LEVEL": "a b"}
    assert (code / ".llamadeploy" / "variables.json").stat().st_mode & 0o077 == 0
    assert prepared_variables(image) == {}
    done = run("prepare", {"image": {}}, cwd=Path("/"))
    assert done.returncode == 1 and "WORKDIR" in done.stderr


def test_env_files_set_nothing_of_ours(tmp_path: Path, run: Any) -> None:
    folder = mount(tmp_path / "mount", {"a.env": "LLAMADEPLOY_API_TOKEN=x\n"})
    source = {"configMap": {"name": "c", "dir": str(folder)}}
    done = run("prepare", {**source, "envFiles": ["a.env"]})
    assert done.returncode == 2 and "LLAMADEPLOY_API_TOKEN" in done.stderr
    done = run("prepare", {**source, "envFiles": ["missing.env"]})
    assert done.returncode == 2 and "missing.env" in done.stderr


def test_a_worker_reads_env_files(tmp_path: Path, prepared: Callable[..., Path], run: Any) -> None:
    """The worker ends with an error of the workflow, which shows the variable."""
    text = "import os\nraise RuntimeError('seen ' + os.environ['GREETING'])\n"
    folder = mount(tmp_path / "mount", {"flow.py": text, "a.env": "GREETING=hello\n"})
    source = {"configMap": {"name": "c", "dir": str(folder)}, "envFiles": ["a.env"]}
    prepared(source)
    key = "k1:" + "A" * 43
    done = run(
        "worker",
        None,
        LLAMADEPLOY_SERVICE="echo",
        LLAMADEPLOY_WORKFLOW_PATH="flow:workflow",
        LLAMADEPLOY_CONTROL_PLANE_URL="http://127.0.0.1:9",
        LLAMADEPLOY_QUEUE_URL="http://127.0.0.1:9",
        LLAMADEPLOY_SIGNING_KEYS=key,
        GREETING="overridden",
    )
    assert done.returncode == 2 and "seen hello" in done.stderr, done.stderr


def test_the_documents_of_the_operator_are_read(tmp_path: Path) -> None:
    """Unknown keys are errors here, so the operator must write no others."""
    from llamadeploy.preparing.document import SourceDocument

    written = {
        "git": {"url": "u", "ref": "r", "commit": "0" * 40, "credentialsDir": "/c",
                "knownHosts": "/k"},
        "envFiles": ["a"],
        "lock": "/l",
    }  # fmt: skip
    assert json.loads(SourceDocument.parse(written).model_dump_json(exclude_none=True)) == written
