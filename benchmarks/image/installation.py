"""Where the measured programs come from: this environment, or an image's file system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

USER = 65532
PYTHON = "/opt/llamadeploy/bin/python"
HOME = "/home/llamadeploy"


class ImageError(Exception):
    """The image cannot be read here; says what to do."""


@dataclass
class Installation:
    """A Python with the product in it.

    Attributes:
        python: how to run it.
        env: variables it needs.
        root: the image's root folder; None for this environment.
        parts: MiB, uncompressed, by what they hold.
    """

    python: Sequence[str] = (sys.executable,)
    env: dict[str, str] = field(default_factory=dict)
    root: Path | None = None
    parts: dict[str, float] = field(default_factory=dict)

    def show(self, folder: Path) -> None:
        """Let its programs see and write a folder, at the same path."""
        if self.root is None:
            return
        inside = self.root / folder.relative_to("/")
        shutil.copytree(folder, inside, dirs_exist_ok=True)
        for path in (inside, *inside.rglob("*")):
            shutil.chown(path, USER, USER)


@contextmanager
def of_image(name: str, engine: str) -> Iterator[Installation]:
    """The image's file system, whose programs run by ``chroot`` as the image's user.

    Args:
        engine: `buildah`, `podman` or `docker`.

    Raises:
        ImageError: not root, or the engine refuses.
    """
    if shutil.which("chroot") is None or os.geteuid() != 0:
        raise ImageError("an image is measured by chroot: be root, on Linux")
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        root = Path(folder)
        root.chmod(0o755)  # its programs run as another user
        layers = _unpack(engine, name, root)
        for part in ("tmp", "dev", "proc"):
            (root / part).mkdir(exist_ok=True)
        (root / "tmp").chmod(0o1777)
        (root / "dev" / "null").touch(mode=0o666)
        chroot = ("chroot", f"--userspec={USER}:{USER}", folder, PYTHON)
        parts = {f"layer {number}": size for number, size in enumerate(layers, 1)}
        parts |= {"/opt/llamadeploy": _size(root / "opt" / "llamadeploy")}
        yield Installation(chroot, {"HOME": HOME, "PYTHONPATH": ""}, root, parts)


def _unpack(engine: str, name: str, root: Path) -> list[float]:
    """Write the image's files; the sizes of its layers in MiB, the base's first."""
    archive = root / ".image.tar"
    if engine == "buildah":
        _run("buildah", "push", "--quiet", name, f"docker-archive:{archive}:measured:1")
    else:
        _run(engine, "save", "--output", str(archive), name)
    _run("tar", "-xf", str(archive), "-C", str(root), "--one-top-level=.image")
    folder = root / ".image"
    (manifest,) = json.loads((folder / "manifest.json").read_text())
    sizes = []
    for layer in manifest["Layers"]:
        _run("tar", "-xf", str(folder / layer), "-C", str(root), "--exclude=dev/*")
        for gone in root.rglob(".wh.*"):  # a file that this layer deletes
            target = gone.with_name(gone.name.removeprefix(".wh."))
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            gone.unlink()
        sizes.append((folder / layer).stat().st_size / 2**20)
    shutil.rmtree(folder)
    archive.unlink()
    return sizes


def _size(folder: Path) -> float:
    """MiB of a folder's files."""
    return sum(each.lstat().st_size for each in folder.rglob("*") if each.is_file()) / 2**20


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-600:]}")
    return done.stdout
