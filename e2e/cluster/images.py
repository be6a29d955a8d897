"""Images made without a registry or a build: of one static program, and of installed packages."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PAUSE = "localhost/pause:1"
BUSYBOX = "localhost/busybox:1"
APPLETS = ("sh", "sleep", "cat", "echo", "wget", "nc", "httpd", "nslookup", "env", "ls", "true")


def write_busybox(path: Path) -> None:
    """Write a docker-archive with :data:`PAUSE` and :data:`BUSYBOX`, which are the same.

    Raises:
        FileNotFoundError: there is no static busybox on this machine.
    """
    config = {"Entrypoint": ["/bin/sleep"], "Cmd": ["2147483647"], "Env": ["PATH=/bin"]}
    _write(path, [PAUSE, BUSYBOX], _layer(APPLETS, ()), config)


def write_packages(
    path: Path, name: str, packages: Sequence[str], env: Mapping[str, str], without: str = "^$"
) -> None:
    """Write a docker-archive with files of installed Debian packages, the libraries they are linked
    with, and busybox's commands.

    Args:
        name: of the image.
        env: its environment.
        without: regular expression of paths that are left out.

    Raises:
        FileNotFoundError: there is no static busybox on this machine.
        subprocess.CalledProcessError: a package is not installed.
    """
    listed = _output("dpkg", "-L", *packages).split("\n")
    left_out = re.compile(f"/usr/share/(doc|man|locale|lintian|bug)/|{without}")
    files = {Path(line) for line in listed if line.startswith("/") and not left_out.search(line)}
    files |= {link for file in files for link in _targets(file)}
    programs = [file for file in files if _linked(file)]
    for number in range(0, len(programs), 100):
        text = _output("ldd", *map(str, programs[number : number + 100]))
        libraries = {Path(found) for found in re.findall(r"(/\S+) \(0x", text)}
        files |= libraries | {link for file in libraries for link in _targets(file)}
    applets = _output("busybox", "--list").split()
    config = {"Env": [f"{key}={value}" for key, value in env.items()], "User": "65532:65532"}
    _write(path, [name], _layer(applets, sorted(files)), config)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _targets(file: Path) -> Iterable[Path]:
    """What a symbolic link leads to, in the end: alternatives lie outside their packages."""
    if file.is_symlink() and file.exists():
        yield file.resolve()


def _linked(file: Path) -> bool:
    """Whether it is a program or library with others."""
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as opened:
        return (opened.read(4) == b"\x7fELF" and b"ld-linux" in opened.read(4096)) or (
            file.suffix == ".so" or ".so." in file.name
        )


def _write(path: Path, names: list[str], layer: bytes, config: Mapping[str, object]) -> None:
    digest = hashlib.sha256(layer).hexdigest()
    body = {
        "architecture": _architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "e2e/cluster/images.py"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "layer.tar", layer)
        _add(archive, "config.json", json.dumps(body).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(applets: Iterable[str], files: Iterable[Path]) -> bytes:
    program = shutil.which("busybox")
    if program is None:
        raise FileNotFoundError("busybox is not installed: apt-get install busybox-static")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        # As Debian has them, where libraries and programs say /lib and /bin.
        for name in ("bin", "lib", "lib64", "sbin"):
            _link(archive, name, f"usr/{name}")
        _add(archive, "usr/bin/busybox", Path(program).read_bytes(), mode=0o755)
        own = {file.name for file in files if str(file.parent) in ("/bin", "/usr/bin")}
        for name in applets:
            if name not in own and name != "busybox":
                _link(archive, f"usr/bin/{name}", "busybox")
        users = b"root:x:0:0::/:/bin/sh\npods:x:65532:65532::/tmp:/bin/sh\n"
        _add(archive, "etc/passwd", users)
        for file in files:
            merged = re.sub(r"^/(bin|lib|lib64|sbin)(?=/|$)", r"/usr/\1", str(file))
            if merged not in ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin"):
                archive.add(file, arcname=merged.lstrip("/"), recursive=False)
    return buffer.getvalue()


def _link(archive: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    archive.addfile(entry)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
