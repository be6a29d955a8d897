"""Dependencies are locked once, and installed as locked wherever a replica starts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def code(tmp_path: Path, make_wheel: Any) -> Path:
    """A source (an image's working directory) with wheels of its own."""
    folder = tmp_path / "code-of-image"
    for version in ("1.0", "1.1"):
        make_wheel(folder / "wheels", "shade", version, {"shade.py": f"version = {version!r}\n"})
    make_wheel(folder / "wheels", "paint", "1.0", {"paint.py": "import shade\n"}, "shade<2")
    make_wheel(folder / "own", "brush", "3.0", {"brush.py": "size = 7\n"}, "shade")
    (folder / "requirements.txt").write_text("paint\n")
    return folder


WHERE = ["--no-index", "-f", "wheels"]
IMAGE: dict[str, Any] = {"image": {}}


def in_environment(folder: Path, expression: str) -> str:
    python = folder / ".llamadeploy" / "environment" / "bin" / "python"
    done = subprocess.run(
        [str(python), "-P", "-c", f"import llamadeploy, {expression.partition('.')[0]} as m;"
         f"print(m.{expression.partition('.')[2]})"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_locked_versions_stay(
    code: Path,
    tmp_path: Path,
    make_wheel: Any,
    resolved: Callable[..., Any],
    prepared: Callable[..., Path],
    run: Any,
) -> None:
    wanted = ["-r requirements.txt", "./own/brush-3.0-py3-none-any.whl", *WHERE]
    lock = resolved(IMAGE, wanted, cwd=code)["lock"]
    assert [line.split(" --hash=sha256:")[0] for line in lock.splitlines()] == [
        "paint==1.0", "shade==1.1"
    ]  # fmt: skip
    make_wheel(code / "wheels", "shade", "1.2", {"shade.py": "version = '1.2'\n"})
    file = tmp_path / "requirements.lock"
    file.write_text(lock)
    folder = prepared({**IMAGE, "lock": str(file)}, wanted, cwd=code)
    assert in_environment(folder, "paint.shade.version") == "1.1"
    assert in_environment(folder, "brush.size") == "7"
    assert not (folder / ".llamadeploy" / "environments" / "cache").exists()

    # Another file under the locked version's name is not taken.
    make_wheel(code / "wheels", "shade", "1.1", {"shade.py": "version = 'evil'\n"})
    done = run("prepare", {**IMAGE, "lock": str(file)}, wanted, cwd=code)
    assert done.returncode == 1 and "hash" in done.stderr.lower(), done.stderr


def test_without_a_lock_they_are_installed_as_written(
    code: Path, prepared: Callable[..., Path]
) -> None:
    folder = prepared(IMAGE, ["shade==1.0", *WHERE], cwd=code)
    assert in_environment(folder, "shade.version") == "1.0"


def test_what_cannot_be_resolved_is_said(code: Path, run: Any) -> None:
    done = run("resolve", IMAGE, ["shade==9", *WHERE], cwd=code)
    assert done.returncode == 1 and done.stdout == ""
    assert "shade==9" in done.stderr and "pip could not resolve" in done.stderr


def test_a_repository_is_locked_at_its_commit(
    repository: Any, git_http: Any, code: Path, tmp_path: Path, resolved: Any, prepared: Any
) -> None:
    project = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    backend = (
        "import zipfile\n"
        "def build_wheel(folder, *_):\n"
        "    name = 'tool-1.0-py3-none-any.whl'\n"
        "    info = 'tool-1.0.dist-info'\n"
        "    with zipfile.ZipFile(folder + '/' + name, 'w') as wheel:\n"
        "        wheel.writestr('tool.py', open('tool.py').read())\n"
        "        wheel.writestr(info + '/METADATA', 'Metadata-Version: 2.1\\nName: tool\\n'\n"
        "                       'Version: 1.0\\n')\n"
        "        wheel.writestr(info + '/WHEEL', 'Wheel-Version: 1.0\\n'\n"
        "                       'Root-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        wheel.writestr(info + '/RECORD', '')\n"
        "    return name\n"
    )
    first = repository.commit(
        {"pyproject.toml": project, "backend.py": backend, "tool.py": "value = 1\n"}
    )
    wanted = [f"tool @ git+{git_http.url()}@main", "shade==1.0", *WHERE]
    lock = resolved(IMAGE, wanted, cwd=code)["lock"]
    assert f"tool @ git+{git_http.url()}@{first}" in lock
    repository.commit({"tool.py": "value = 2\n"})
    file = tmp_path / "requirements.lock"
    file.write_text(lock)
    folder = prepared({**IMAGE, "lock": str(file)}, wanted, cwd=code)
    assert in_environment(folder, "tool.value") == "1"
