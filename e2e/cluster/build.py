"""Go programs that tests need: built once, then taken from a folder of the user's own.

``python -m e2e.cluster.build`` builds them all beforehand (five minutes on two cores).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

HERE = Path(__file__).parent
KUBERNETES = "1.35.4"
"""As in go.mod; the binary reports it as its version."""
KWOK = "v0.7.0"
HELM = "v4.3.1"
KEDA = "v2.21.0"
"""As in keda/go.mod."""
_KEDA = "github.com/kedacore/keda/v2"
ACTIONLINT = "v1.7.7"
SCHEMAS = ("1.29.15", "1.32.10", KUBERNETES)
"""Releases against whose published schemas the charts are checked: the oldest that they take, one
between, and the one that tests run."""

Report = Callable[[str], None]


class BuildUnavailableError(Exception):
    """There is no Go to build with, or it failed; the message says what to do."""


def cache_folder() -> Path:
    """Where built programs are kept; ``LLAMADEPLOY_E2E_CACHE`` moves it."""
    given = os.environ.get("LLAMADEPLOY_E2E_CACHE")
    folder = Path(given) if given else platformdirs.user_cache_path("llamadeploy") / "e2e"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cluster_binary(report: Report = lambda line: None) -> Path:
    """The program with every part of a cluster: ``cluster kube-apiserver ...``.

    Args:
        report: gets a line of progress every 20 seconds while it is built.

    Raises:
        BuildUnavailableError: it is not there and cannot be built.
    """
    major, minor, _ = KUBERNETES.split(".")
    package = "k8s.io/component-base/version"
    link = f"-s -w -X {package}.gitVersion=v{KUBERNETES}"
    link += f" -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    return _module("cluster", HERE, link, report)


def dns_binary(report: Report = lambda line: None) -> Path:
    """CoreDNS, for clusters with real nodes.

    Raises:
        BuildUnavailableError: it is not there and cannot be built.
    """
    return _module("dns", HERE / "dns", "-s -w", report)


def kwok_binary(report: Report = lambda line: None) -> Path:
    """kwok, which makes pods Running without running anything.

    Raises:
        BuildUnavailableError: it is not there and cannot be built.
    """
    command = ["install", f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}"]
    return _built(f"kwok-{KWOK}", HERE, lambda _: command, report)


def helm_binary(report: Report = lambda line: None) -> Path:
    """Helm, which renders the charts.

    Raises:
        BuildUnavailableError: it is not there and cannot be built.
    """
    command = ["install", f"helm.sh/helm/v4/cmd/helm@{HELM}"]
    return _built(f"helm-{HELM}", HERE, lambda _: command, report)


def actionlint_binary(report: Report = lambda line: None) -> Path:
    """actionlint, which checks workflows of GitHub Actions.

    Raises:
        BuildUnavailableError: it is not there and cannot be built.
    """
    command = ["install", f"github.com/rhysd/actionlint/cmd/actionlint@{ACTIONLINT}"]
    return _built(f"actionlint-{ACTIONLINT}", HERE, lambda _: command, report)


def kubectl_binary(report: Report = lambda line: None) -> Path:
    """The kubectl of this machine, or one that is built.

    Raises:
        BuildUnavailableError: it is not there and cannot be built.
    """
    found = shutil.which("kubectl")
    return Path(found) if found else _module("kubectl", HERE / "kubectl", "-s -w", report)


def keda_binary(report: Report = lambda line: None) -> Path:
    """KEDA's operator.

    Raises:
        BuildUnavailableError: it is not there and cannot be built.
    """
    return _module("keda", HERE / "keda", "-s -w", report, f"{_KEDA}/cmd/operator")


def keda_crds(report: Report = lambda line: None) -> list[Path]:
    """KEDA's custom resource definitions, one per file, from its Go module (of 10 MB).

    Raises:
        BuildUnavailableError: they are not there and cannot be fetched.
    """
    folder = cache_folder() / f"keda-crds-{KEDA}"
    if not folder.exists():
        source = _downloaded(f"{_KEDA}@{KEDA}", report) / "config" / "crd" / "bases"
        made = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.copytree(source, made)
        with contextlib.suppress(OSError):  # another run has just made it
            made.rename(folder)
        shutil.rmtree(made, ignore_errors=True)
    return sorted(folder.glob("*.yaml"))


def api_schema(release: str, report: Report = lambda line: None) -> Path:
    """The OpenAPI document (``swagger.json``) of a release of Kubernetes, 4 MB; its sources, of
    40 MB, come by Go's module proxy once.

    Raises:
        BuildUnavailableError: it is not there and cannot be fetched.
    """
    path = cache_folder() / f"swagger-{release}.json"
    if path.exists():
        return path
    module = _downloaded(f"k8s.io/kubernetes@v{release}", report)
    source = module / "api" / "openapi-spec" / "swagger.json"
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_bytes(source.read_bytes())
    made.replace(path)
    return path


def _downloaded(module: str, report: Report) -> Path:
    """The folder of a Go module's sources, from the module proxy.

    Raises:
        BuildUnavailableError: there is no Go, or it failed.
    """
    program = shutil.which("go")
    if program is None:
        raise BuildUnavailableError(f"{module} comes by Go: https://go.dev/dl")
    report(f"Fetching {module} ...")
    command = [program, "mod", "download", "-json", module]
    environ = {**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=mod"}
    with tempfile.TemporaryDirectory() as empty:  # outside of any module
        done = subprocess.run(command, cwd=empty, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise BuildUnavailableError(f"fetching {module} failed: {done.stdout[-500:]}")
    return Path(json.loads(done.stdout)["Dir"])


def _module(name: str, folder: Path, link: str, report: Report, package: str = ".") -> Path:
    """The program of a Go module of ours; the cached one is of the same files and flags."""
    files = [folder / file for file in ("go.mod", "go.sum", "main.go")]
    content = b"".join(file.read_bytes() for file in files if file.exists())
    key = hashlib.sha256(content + link.encode()).hexdigest()[:16]
    command = ["build", "-buildvcs=false", "-ldflags", link]
    return _built(f"{name}-{key}", folder, lambda to: [*command, "-o", str(to), package], report)


def _built(name: str, module: Path, arguments: Callable[[Path], list[str]], report: Report) -> Path:
    path = cache_folder() / name
    if path.exists():
        return path
    program = shutil.which("go")
    if program is None:
        raise BuildUnavailableError(
            f"{name} has to be built once: install Go 1.25 or newer (https://go.dev/dl), or name a"
            " cluster with LLAMADEPLOY_TEST_CLUSTER=existing and KUBECONFIG"
        )
    with locked(path.with_name(f"{name}.lock")):
        if not path.exists():  # another run may just have built it
            _go([program], module, arguments, path, report)
    return path


def _go(
    program: list[str],
    module: Path,
    arguments: Callable[[Path], list[str]],
    path: Path,
    report: Report,
) -> None:
    name = path.name
    folder = path.with_name(f".{name}.{os.getpid()}")
    folder.mkdir()
    log = folder / "log"
    environ = {**os.environ, "GOBIN": str(folder), "GOWORK": "off"}  # GOBIN: of `go install`
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*program, *arguments(folder / "program")],
                cwd=module, env=environ, stdout=output, stderr=output,
            )  # fmt: skip
            _wait(process, name, report)
        if process.returncode:
            raise BuildUnavailableError(f"building {name} failed:\n{log.read_text()[-3000:]}")
        made = next(item for item in folder.iterdir() if item.name != "log")
        made.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], name: str, report: Report) -> None:
    started = time.monotonic()
    report(f"Building {name}: once, about five minutes on two cores ...")
    try:
        while True:
            try:
                process.wait(20)
                return
            except subprocess.TimeoutExpired:
                report(f"  still building, {time.monotonic() - started:.0f} s")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Build all of them, and say where they are."""

    def report(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    for build in (cluster_binary, kwok_binary, dns_binary, helm_binary):
        sys.stdout.write(f"{build(report)}\n")


if __name__ == "__main__":
    main()
