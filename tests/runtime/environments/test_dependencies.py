"""``python-dependencies``: what is understood, what is refused, and what changes the set."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.exceptions import ConfigurationError


def read(source: Path, *arguments: str) -> Dependencies:
    return Dependencies.read(arguments, [source])


def test_requirements_and_options_are_told_apart(source: Path) -> None:
    (source / "requirements.txt").write_text("httpx\n")
    (source / "wheels").mkdir()
    found = read(
        source, "numpy>=1; python_version > '3'", "-r requirements.txt", "-f", "wheels",
        "--no-index", "--index-url=https://u:p@h/simple", "x @ https://h/x.whl", "-U",
        "--only-binary", ":all:",
    )  # fmt: skip
    assert found.lines == (
        "numpy>=1; python_version > '3'", "--index-url https://u:p@h/simple", "x @ https://h/x.whl",
    )  # fmt: skip
    assert found.options == (
        "-r", str(source / "requirements.txt"), "--find-links", str(source / "wheels"),
        "--no-index", "--only-binary", ":all:",
    )  # fmt: skip
    assert "u:p" not in repr(found)


@pytest.mark.parametrize("name", ["./package", "package/", ".", "./package[extra]", "a-1.whl"])
def test_local_packages(source: Path, name: str) -> None:
    (source / "package").mkdir()
    (source / "a-1.whl").touch()
    (package,) = read(source, name).packages
    assert package.path == (source / name.partition("[")[0]).resolve()
    assert package.extras == ("[extra]" if "[" in name else "")


def test_an_editable_package_is_installed_as_it_is_now(source: Path) -> None:
    (source / "package").mkdir()
    assert read(source, "-e", "./package") == read(source, "./package")


def test_the_digest_is_that_of_the_set(source: Path, tmp_path: Path) -> None:
    for folder in (source, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        (folder / "requirements.txt").write_text("-c limits.txt\nhttpx\n")
        (folder / "limits.txt").write_text("httpx<1\n")
        (folder / "package").mkdir()
        (folder / "package" / "setup.py").write_text("1")
    arguments = ("a", "b", "-r", "requirements.txt", "./package")
    first = read(source, *arguments).digest
    assert read(source, "-rrequirements.txt", "b", "a", "package/").digest == first
    assert read(tmp_path / "other", *arguments).digest == first

    (source / "limits.txt").write_text("httpx<2\n")
    second = read(source, *arguments).digest
    (source / "package" / "setup.py").write_text("2")
    third = read(source, *arguments).digest
    assert len({first, second, third, read(source, *arguments, "c").digest}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "x"], "the option '--target' is not possible here; use requirements"),
        (["--prefix=/usr"], "the option '--prefix' is not possible here"),
        (["--user"], "the option '--user'"),
        (["-r"], "'-r' has no value"),
        (["-r", "missing.txt"], "'missing.txt' is not there (looked at "),
        (["-r", "folder"], "'folder' is not a file"),
        (["-r", "/etc/passwd"], "'/etc/passwd' is an absolute path"),
        (["../outside"], "'../outside' leaves the source"),
        (["link/x"], "'link/x' leaves the source"),
        (["./nowhere"], "'./nowhere' is not there"),
        (["a\n--target=/x"], "holds a line break"),
        (["-r 'x"], "close the quotes"),
        (["  "], "an item is empty"),
        (["-r", "nested.txt"], "'nested.txt' names 'none.txt', which is not there"),
        (["-r", "local.txt"], "'local.txt' has the path './package'; write it as an item"),
        (["-r", "editable.txt"], "'editable.txt' has the path '-e package'"),
        (["-r", "binary.txt"], "'binary.txt' cannot be read"),
    ],
)
def test_what_cannot_be_is_said(source: Path, arguments: list[str], message: str) -> None:
    (source.parent / "outside").mkdir()
    (source.parent / "outside" / "x").mkdir()
    (source / "link").symlink_to(source.parent / "outside")
    (source / "folder").mkdir()
    (source / "nested.txt").write_text("-r none.txt\n")
    (source / "local.txt").write_text("httpx\n./package\n")
    (source / "editable.txt").write_text("-e package\n")
    (source / "binary.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigurationError) as error:
        read(source, *arguments)
    assert message in str(error.value)
    assert str(error.value).startswith("python-dependencies: ")


def test_files_that_include_each_other_end(source: Path) -> None:
    (source / "a.txt").write_text("-r b.txt\n")
    (source / "b.txt").write_text("-r a.txt\nhttpx\n")
    assert read(source, "-r", "a.txt").digest


def test_a_pinned_file_with_hashes_is_read(source: Path) -> None:
    (source / "lock.txt").write_text("httpx==0.28 \\\n    --hash=sha256:ab/cd \\\n    # via x\n")
    assert read(source, "-r", "lock.txt").hashed
