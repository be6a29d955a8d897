"""Environments of their own for what we are measured beside, each made once per user.

The original llama-deploy 0.8.1 can never share an environment with this project: both own the
script `llamactl`. Dramatiq is no dependency of ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

LOCK_FILE = Path(__file__).parents[1] / "tests" / "compat" / "requirements.lock"
ORIGINAL_WITH_BROKERS = Path(__file__).parent / "brokers" / "original.lock"
"""The same with its extras for Redis and RabbitMQ."""
DRAMATIQ = Path(__file__).parent / "brokers" / "dramatiq.lock"
INSTALL_SECONDS = 600
"""A cold install downloads about 150 MB; a warm one takes two seconds."""


class EnvironmentUnavailable(Exception):
    """The environment could not be made; the message says what to install or check."""


def original_python() -> Path:
    """Path of a Python that has llama-deploy 0.8.1; see :func:`python_with`."""
    return python_with(LOCK_FILE, "compat-0.8.1")


def python_with(lock_file: Path, name: str) -> Path:
    """Path of a Python with the packages of a lock file; makes the environment when it is missing.

    Raises:
        EnvironmentUnavailable: uv is missing, or the packages cannot be installed.
    """
    cache = platformdirs.user_cache_path("llamadeploy")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{name}-{_fingerprint(lock_file)}"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    with _locked(cache / f"{folder.name}.lock"):
        # The mark is written last: a folder without it is what a broken install left behind.
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _uv("venv", "--quiet", "--python", sys.executable, str(folder))
            _uv("pip", "install", "--quiet", "--python", str(python), "--require-hashes",
                "-r", str(lock_file))  # fmt: skip
            complete.touch()
    return python


def _fingerprint(lock_file: Path) -> str:
    """Twelve hex digits that change with the pins and with the Python that runs them."""
    pins = lock_file.read_bytes() + sys.version.encode() + sys.base_prefix.encode()
    return hashlib.sha256(pins).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; a second process waits for the first one's install."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _uv(*arguments: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "uv", *arguments],
            capture_output=True, text=True, timeout=INSTALL_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        msg = f"uv {arguments[0]} did not end within {INSTALL_SECONDS} s; check the network"
        raise EnvironmentUnavailable(msg) from None
    if done.returncode == 0:
        return
    if "No module named uv" in done.stderr:
        msg = f"uv is missing: run `{sys.executable} -m pip install uv`"
        raise EnvironmentUnavailable(msg)
    raise EnvironmentUnavailable(f"uv {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
