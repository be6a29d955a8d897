"""Environments: built once, used offline, never half, and seen by nobody else."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from llamadeploy.commands import Cancellation, CommandCancelledError
from llamadeploy.environments import cache as cache_module
from llamadeploy.environments import runtime
from llamadeploy.environments.cache import Environment, EnvironmentCache, environment_key
from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.environments.installer import Installer, find_installer
from llamadeploy.exceptions import ConfigurationError, DeploymentError

PIP = Installer("pip", (sys.executable, "-m", "pip"))


def evaluate(environment: Environment, expression: str, module: str = "shade") -> str:
    """The value of an expression there, as a worker would see it."""
    code = f"import {module}; print({expression})"
    command = [str(environment.python), "-P", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def shades(source: Path, make_wheel: Any) -> Path:
    """Wheels of ``shade`` 1.0 and 2.0, and of ``paint``, which needs ``shade``."""
    for version in ("1.0", "2.0"):
        make_wheel(source / "wheels", "shade", version, {"shade.py": f"version = {version!r}\n"})
    make_wheel(source / "wheels", "paint", "1.0", {"paint.py": "import shade\n"}, "shade<2")
    return source / "wheels"


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen = find_installer() if request.param == "uv" else PIP
    assert chosen.name == request.param
    monkeypatch.setattr(cache_module, "find_installer", lambda: chosen)
    return str(request.param)


LOCAL = ("--no-index", "-f", "wheels")


def test_two_versions_side_by_side(build: Any, shades: Path, installer: str) -> None:
    old, new = build("shade==1.0", *LOCAL), build("shade==2.0", *LOCAL)
    assert (evaluate(old, "shade.version"), evaluate(new, "shade.version")) == ("1.0", "2.0")
    assert evaluate(build("paint", *LOCAL), "paint.shade.version", "paint") == "1.0"


def test_the_environment_sees_the_runtime_behind_its_own_packages(
    build: Any, source: Path, make_wheel: Any
) -> None:
    files = {"click/__init__.py": "mine = True\n"}
    make_wheel(source / "wheels", "click", "99.0", files)
    environment = build("click==99.0", *LOCAL)
    assert evaluate(environment, "click.mine", "click") == "True"
    assert evaluate(environment, "llamadeploy.__file__", "llamadeploy").endswith("__init__.py")
    assert evaluate(environment, "msgspec.__version__", "msgspec")
    # None of it reached the server's own environment.
    assert subprocess.run([sys.executable, "-c", "import click; click.mine"],
                          capture_output=True, check=False).returncode == 1  # fmt: skip


def test_a_set_is_built_once(build: Any, cache: EnvironmentCache, shades: Path) -> None:
    first = build("shade", "paint", *LOCAL)
    assert any("shade" in line for line in build.progress)
    build.progress.clear()
    assert build("paint", "shade", *LOCAL) == first
    assert build.progress == []


def test_nothing_is_asked_for_the_second_time(
    build: Any, index: Any, source: Path, make_wheel: Any, monkeypatch: pytest.MonkeyPatch,
    installer: str,
) -> None:  # fmt: skip
    index.add(make_wheel(source, "shade", "1.0", {"shade.py": "version = '1.0'\n"}))
    monkeypatch.setenv("LLAMADEPLOY_INDEX_URL", index.url())
    (source / "requirements.txt").write_text("shade==1.0\n")
    first = build("-r requirements.txt")
    assert index.requests
    index.requests.clear()
    index.stop()
    monkeypatch.setenv("PATH", "/nowhere")
    assert build("-r requirements.txt") == first
    assert evaluate(first, "shade.version") == "1.0"


def test_an_index_in_the_set_and_its_password(
    build: Any, index: Any, source: Path, make_wheel: Any, installer: str,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("DEBUG")
    index.add(make_wheel(source, "shade", "1.0", {"shade.py": ""}))
    found = build("shade", "--index-url", index.url("me:sesame@"))
    assert base64.b64encode(b"me:sesame").decode() in "".join(index.logins)
    with pytest.raises(DeploymentError) as error:
        build("missing-package", "--index-url", index.url("me:sesame@"))
    told = [str(error.value), *build.progress, caplog.text, *capfd.readouterr()]
    assert not any("sesame" in each for each in told)
    kept = [path for path in found.folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert not any(b"sesame" in path.read_bytes() for path in kept)


def test_pips_own_variables_hold_for_uv(
    build: Any, shades: Path, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shades))
    monkeypatch.setenv("PIP_TARGET", str(shades / "elsewhere"))
    assert evaluate(build("shade==2.0"), "shade.version") == "2.0"
    assert not (shades / "elsewhere").exists()


def test_a_local_package_is_built_from_a_copy(build: Any, source: Path, make_wheel: Any) -> None:
    backend = (
        "import pathlib, zipfile\n"
        "def build_wheel(folder, settings=None, metadata=None):\n"
        "    pathlib.Path('left-behind').touch()\n"
        "    name = 'mine-1.0-py3-none-any.whl'\n"
        "    info = 'mine-1.0.dist-info/'\n"
        "    head = 'Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n'\n"
        "    kind = 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'\n"
        "    with zipfile.ZipFile(pathlib.Path(folder, name), 'w') as wheel:\n"
        "        wheel.writestr('mine.py', 'x = 1')\n"
        "        wheel.writestr(info + 'METADATA', head)\n"
        "        wheel.writestr(info + 'WHEEL', kind)\n"
        "        wheel.writestr(info + 'RECORD', '')\n"
        "    return name\n"
    )
    package = source / "my package"
    package.mkdir()
    (package / "backend.py").write_text(backend)
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "mine"\nversion = "1.0"\n'
    )
    assert evaluate(build("./my package", "--no-index"), "mine.x", "mine") == "1"
    assert sorted(path.name for path in package.iterdir()) == ["backend.py", "pyproject.toml"]


# -- failures ------------------------------------------------------------------------------------


def test_a_failed_build_says_why_and_leaves_nothing(
    build: Any, cache: EnvironmentCache, shades: Path, installer: str
) -> None:
    with pytest.raises(DeploymentError) as error:
        build("shade==3.0", *LOCAL)
    assert f"python-dependencies: {installer} could not install them:" in str(error.value)
    assert "shade==3.0" in str(error.value)
    assert not [path for path in cache.root.iterdir() if path.is_dir() and "." in path.name]
    assert build("shade==2.0", *LOCAL)


def test_a_version_the_worker_cannot_run_with_is_refused(
    build: Any, source: Path, make_wheel: Any
) -> None:
    make_wheel(source / "wheels", "msgspec", "0.1", {"msgspec/__init__.py": ""})
    with pytest.raises(DeploymentError, match=r"(?s)could not install them:.*msgspec"):
        build("msgspec==0.1", *LOCAL)


def test_a_package_that_breaks_the_worker_is_found_out(
    build: Any, source: Path, make_wheel: Any
) -> None:
    make_wheel(source / "wheels", "rude", "1.0", {"msgspec/__init__.py": "1 / 0\n"})
    with pytest.raises(DeploymentError, match=r"(?s)a worker cannot run .*ZeroDivisionError"):
        build("rude", *LOCAL)


def test_half_an_environment_is_never_used(
    build: Any, cache: EnvironmentCache, shades: Path
) -> None:
    good = build("shade==1.0", *LOCAL)
    (good.folder / "complete.json").unlink()  # as after a crash while it was built
    assert cache.find(good.key) is None
    again = build("shade==1.0", *LOCAL)
    assert again.folder != good.folder
    cache.prune([again.key], unused_seconds=0)  # until then somebody may run in it
    assert not good.folder.exists()
    assert evaluate(again, "shade.version") == "1.0"


@pytest.mark.parametrize("damage", ["runtime", "python"])
def test_what_no_longer_fits_is_built_again(
    build: Any, cache: EnvironmentCache, shades: Path, damage: str
) -> None:
    old = build("shade==1.0", *LOCAL)
    if damage == "runtime":
        mark = json.loads((old.folder / "complete.json").read_text())
        (old.folder / "complete.json").write_text(json.dumps({**mark, "runtime": "another"}))
    else:
        old.python.unlink()
        old.python.symlink_to("/nowhere/python")
    assert cache.find(old.key) is None
    assert evaluate(build("shade==1.0", *LOCAL), "shade.version") == "1.0"


def test_another_release_gets_environments_of_its_own(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dependencies = Dependencies.read(["x"], [source])
    before = environment_key(dependencies)
    monkeypatch.setattr(runtime, "__version__", "99.0")
    assert environment_key(dependencies) != before


def test_two_builders_of_one_set_build_once(
    cache: EnvironmentCache, index: Any, source: Path, make_wheel: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    index.add(make_wheel(source, "shade", "1.0", {"shade.py": ""}))
    index.hold = threading.Event()
    monkeypatch.setenv("LLAMADEPLOY_INDEX_URL", index.url())
    found: list[Environment] = []
    told: list[str] = []
    waiting = threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        if "another service is installing" in line:
            waiting.set()

    def prepare() -> None:
        dependencies = Dependencies.read(["shade"], [source])
        found.append(cache.prepare(dependencies, Cancellation(), tell))

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert index.held.wait(30)
    assert waiting.wait(30)
    index.hold.set()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert found[0] == found[1]
    assert sum("installing python-dependencies" in line for line in told) == 1


def test_a_build_can_be_cancelled(
    cache: EnvironmentCache, index: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.hold = threading.Event()
    monkeypatch.setenv("LLAMADEPLOY_INDEX_URL", index.url())
    cancellation = Cancellation()
    outcome: list[BaseException] = []

    def prepare() -> None:
        try:
            dependencies = Dependencies.read(["shade"], [source])
            cache.prepare(dependencies, cancellation, lambda line: None)
        except CommandCancelledError as error:
            outcome.append(error)

    thread = threading.Thread(target=prepare)
    thread.start()
    assert index.held.wait(30)
    cancellation.cancel()
    thread.join(10)
    assert len(outcome) == 1
    assert not list(cache.root.glob("*.*/pyvenv.cfg"))
    index.hold.set()


def test_a_build_that_takes_too_long_is_ended(
    build: Any, index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.hold = threading.Event()
    monkeypatch.setenv("LLAMADEPLOY_INDEX_URL", index.url())
    monkeypatch.setattr(cache_module, "BUILD_SECONDS", 0.5)
    with pytest.raises(DeploymentError, match=r"not done within 0\.5 s"):
        build("shade")
    index.hold.set()


def test_no_installer_is_said(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"needs uv, or pip 22\.3 or newer"):
        build("shade")


def test_what_is_unused_is_removed(build: Any, cache: EnvironmentCache, shades: Path) -> None:
    used, recent, old = (build("shade", *LOCAL, *more) for more in ((), ("--pre",), ("--no-deps",)))
    for environment in (used, old):
        os.utime(environment.folder / "complete.json", (0, 0))
    half = cache.root / f"{'0' * 32}.12345678"
    shutil.copytree(old.folder, half, symlinks=True)
    (half / "complete.json").unlink()
    cache.prune([used.key], unused_seconds=3600)
    assert [cache.find(each.key) for each in (used, recent, old)] == [used, recent, None]
    assert not half.exists()
    assert not old.folder.exists()
