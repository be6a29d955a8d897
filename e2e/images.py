"""The images of the end-to-end tests: the product's own, and servers where no registry is.

``buildah`` builds the product's without a daemon (root on Linux), ``docker`` where there is one; it
is named by a hash of all that goes into it, so that nothing is built twice, and the layers of
earlier builds are used: a change of our code builds the last ones alone.

``python -m e2e.images`` builds them beforehand and prints their names.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import images
from e2e.cluster.build import Report, cache_folder, locked

ROOT = Path(__file__).parents[1]
PARTS = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE",
         "requirements/image.lock", "requirements/build.lock", "runtime", "operator")  # fmt: skip
"""What the image is made of; ``.dockerignore`` lets nothing else in."""

SUITE = "bookworm"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
BASE_RULES = "1"
"""Another number makes the base image anew."""


@dataclass(frozen=True)
class Server:
    """An image of installed Debian packages, which takes seconds and no registry.

    Attributes:
        package: what is installed with ``apt-get``.
        pattern: of all the packages whose files it takes.
        path: where its programs are.
        without: what is left out, as a regular expression of paths.
    """

    package: str
    pattern: str
    path: str
    without: str = "^$"


SERVERS = {
    "redis": Server("redis-server", "redis-(server|tools)", "/usr/bin"),
    "rabbitmq": Server("rabbitmq-server", "rabbitmq-server|erlang-.*", "/usr/lib/rabbitmq/bin"),
    "postgresql": Server(
        "postgresql", r"postgresql-(client-)?\d+|tzdata", "/usr/lib/postgresql/15/bin", "llvmjit"
    ),
}

PUBLIC = {
    "redis": "redis:7.4-alpine",
    "rabbitmq": "rabbitmq:4.1-alpine",
    "postgresql": "postgres:17-alpine",
}
"""The same from a registry."""

KEPT_BUILDS = 6
"""Layers of more builds than this are thrown away, with all the others."""


class ImageUnavailableError(Exception):
    """An image cannot be built here; the message says what to do."""


@dataclass(frozen=True)
class Built:
    """An image that a cluster can be given.

    Attributes:
        name: with its tag.
        archive: a docker-archive with it.
    """

    name: str
    archive: Path


def content_key(paths: Iterable[Path], *more: str) -> str:
    """A hash of files, of folders with all in them but caches, and of texts."""
    found = hashlib.sha256("\0".join(more).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts and ".egg-info" not in str(file):
                found.update(str(file.relative_to(ROOT)).encode() + b"\0")
                found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16]


def app_key() -> str:
    """Of the product's image as the checkout has it."""
    return content_key((ROOT / part for part in PARTS), BASE_RULES)


class Buildah:
    """Builds with ``buildah``, on a base made by ``debootstrap``. See the module."""

    PROGRAMS = ("buildah", "debootstrap", "runc")

    def __init__(self, report: Report = lambda line: None) -> None:
        self._report = report
        self._folder = cache_folder() / "images"
        self._folder.mkdir(exist_ok=True)

    def app(self) -> Built:
        """The product's image.

        Raises:
            ImageUnavailableError: it cannot be built; says why.
        """
        return self._made("llamadeploy", app_key(), self._build_app)

    def server(self, name: str) -> Built:
        """An image of :data:`SERVERS`.

        Raises:
            ImageUnavailableError: it cannot be built; says why.
        """
        server = SERVERS[name]
        versions = _installed(server)
        key = content_key([Path(images.__file__)], repr(server), *sorted(versions))
        image = f"localhost/e2e-{name}:{key}"
        archive = self._folder / f"e2e-{name}-{key}.tar"
        if not archive.exists():
            part = archive.with_suffix(f".{os.getpid()}")
            env = {"PATH": f"{server.path}:/usr/sbin:/usr/bin"}
            packages = [each.split("=")[0] for each in versions]
            images.write_packages(part, image, packages, env, server.without)
            part.replace(archive)
            self._forget(f"e2e-{name}", archive)
        return Built(image, archive)

    def _made(self, name: str, key: str, build: Callable[[str], None]) -> Built:
        image = f"localhost/{name}:{key}"
        archive = self._folder / f"{name}-{key}.tar"
        if not archive.exists():
            with locked(self._folder / "lock"):
                if not archive.exists():  # another run may just have built it
                    self._report(f"Building the image {image} ...")
                    build(image)
                    self._push(image, archive, image)
                    self._forget(name, archive)
        archive.touch()
        return Built(image, archive)

    def _build_app(self, image: str) -> None:
        self._bound()
        self._bud(ROOT / "Dockerfile", ROOT, image, "--build-arg", f"BASE_IMAGE={self._base()}")

    def _base(self) -> str:
        """Debian with Python; made once."""
        key = content_key((), SUITE, BASE_RULES, *BASE_PACKAGES)
        image = f"localhost/debian-python:{key}"
        if self._buildah("images", "-q", image, check=False):
            return image
        self._report("Making the base image with debootstrap: once, about two minutes ...")
        with tempfile.TemporaryDirectory(prefix="base-", dir=self._folder) as folder:
            root = Path(folder) / "root"
            mirror = os.environ.get("LLAMADEPLOY_E2E_MIRROR")
            include = f"--include={','.join(BASE_PACKAGES)}"
            words = ["--variant=minbase", include, SUITE, str(root), *([mirror] if mirror else [])]
            try:
                _run(["debootstrap", *words])
            finally:
                # One that was stopped leaves these mounted, and the folder is about to be removed.
                for place in ("proc", "sys"):
                    _run(["umount", "-l", str(root / place)], check=False)
            for waste in ("usr/share/doc", "usr/share/locale", "usr/share/man",
                          "var/cache/apt/archives", "var/lib/apt/lists", "var/log"):  # fmt: skip
                shutil.rmtree(root / waste, ignore_errors=True)
            for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial",
                           "var/log/apt", "usr/share/man/man1"):  # fmt: skip
                (root / needed).mkdir(parents=True, exist_ok=True)
            _run(["tar", "-C", str(root), "-cf", f"{folder}/base.tar", "."])
            shutil.rmtree(root)
            (Path(folder) / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
            self._bud(Path(folder) / "Dockerfile", Path(folder), image)
        return image

    def _bud(self, dockerfile: Path | str, context: Path, image: str, *more: str) -> None:
        volumes = []
        # How this machine reaches package indexes is of no concern to the Dockerfile.
        for path in ("/etc/ssl/certs", "/etc/pip.conf"):
            if Path(path).exists():
                volumes += ["--volume", f"{path}:{path}:ro"]
        if isinstance(dockerfile, str):
            with tempfile.NamedTemporaryFile("w", suffix=".Dockerfile") as file:
                file.write(dockerfile)
                file.flush()
                return self._bud(Path(file.name), context, image, *more)
        self._buildah("bud", "--layers", *volumes, "-f", str(dockerfile), "-t", image, *more,
                      str(context))  # fmt: skip
        return None

    def _push(self, image: str, archive: Path, name: str) -> None:
        part = archive.with_suffix(f".{os.getpid()}")
        self._buildah("push", "-q", image, f"docker-archive:{part}:{name}")
        part.replace(archive)

    def _forget(self, name: str, newest: Path) -> None:
        """Archives of older content."""
        for old in self._folder.glob(f"{name}-*.tar"):
            if old != newest:
                old.unlink()

    def _bound(self) -> None:
        """Keep the storage from growing without an end."""
        words = self._buildah("images", "-q", "localhost/llamadeploy", check=False).split()
        if len(words) > KEPT_BUILDS:
            self._buildah("rmi", "--force", *words, check=False)
            self._buildah("rmi", "--prune", "--force", check=False)

    def _buildah(self, *words: str, check: bool = True) -> str:
        environ = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": self._driver()}
        storage = ["--root", str(self._folder / "storage"), "--runroot", str(self._folder / "run")]
        return _run(["buildah", *storage, *words], environ, check=check)

    def _driver(self) -> str:
        """``overlay``, which shares what layers have in common, where the kernel has it."""
        known = Path("/proc/filesystems").read_text().split()
        return "overlay" if "overlay" in known else "vfs"


class Docker:
    """Builds with ``docker``; servers come from a registry. See the module."""

    PROGRAMS = ("docker",)

    def __init__(self, report: Report = lambda line: None) -> None:
        self._report = report

    def app(self) -> str:
        """The product's image; its name.

        Raises:
            ImageUnavailableError: it cannot be built; says why.
        """
        image = f"localhost/llamadeploy:{app_key()}"
        if not _run(["docker", "images", "-q", image]):
            self._report(f"Building the image {image} ...")
            _run(["docker", "build", "-t", image, str(ROOT)])
        return image

    def server(self, name: str) -> str:
        """A public image, pulled."""
        image = PUBLIC[name]
        if not _run(["docker", "images", "-q", image]):
            _run(["docker", "pull", image])
        return image

    def alias(self, image: str, tag: str) -> str:
        """The same image under another tag."""
        name = f"{image.rpartition(':')[0]}:{tag}"
        _run(["docker", "tag", image, name])
        return name


def _installed(server: Server) -> list[str]:
    """``package=version`` of what is installed of it; as root, it is installed."""
    found = _matching(server)
    there = any(each.startswith(f"{server.package}=") for each in found)
    if not there and os.geteuid() == 0 and shutil.which("apt-get"):
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        _run(["apt-get", "update"], environ)
        _run(["apt-get", "install", "-y", "--no-install-recommends", server.package], environ)
        found = _matching(server)
    if not found:
        raise ImageUnavailableError(f"apt-get install {server.package}")
    return found


def _matching(server: Server) -> list[str]:
    text = _run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}=${Version}\n"])
    lines = [line.split(" ", 1) for line in text.splitlines()]
    wanted = re.compile(f"({server.pattern}|{re.escape(server.package)})=.*")
    return [name for state, name in lines if state == "installed" and wanted.fullmatch(name)]


def _run(command: list[str], environ: dict[str, str] | None = None, check: bool = True) -> str:
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise ImageUnavailableError(
            f"{command[0]} is not installed: apt-get install {command[0]}"
        ) from None
    if done.returncode and check:
        words = " ".join(command)
        raise ImageUnavailableError(f"{words} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout.strip()


def main() -> None:
    """Build all of them, and print their names."""

    def report(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    builder = Buildah(report)
    wanted = sys.argv[1:] or ["app", *SERVERS]
    for name in wanted:
        built = builder.app() if name == "app" else builder.server(name)
        sys.stdout.write(f"{built.name} {built.archive}\n")


if __name__ == "__main__":
    try:
        main()
    except ImageUnavailableError as error:
        sys.exit(str(error))
