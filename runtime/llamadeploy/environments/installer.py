"""uv where it is there, else pip: how packages get into an environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llamadeploy.environments.dependencies import Dependencies
from llamadeploy.exceptions import ConfigurationError

_OLDEST_PIP = (22, 3)
"""The first with ``--python``: an environment then needs no pip of its own."""

_INHERITED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "NETRC",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
        "SSH_AUTH_SOCK", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
        "http_proxy", "https_proxy", "no_proxy", "all_proxy", "CC", "CXX", "CFLAGS", "LDFLAGS",
    }
)  # fmt: skip

_NOT_INHERITED = frozenset(
    {
        "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV",
        "PIP_REQUIREMENT", "PIP_EDITABLE", "PIP_LOG", "PIP_REPORT", "PIP_DRY_RUN", "PIP_SRC",
        "UV_TARGET", "UV_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT",
        "UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_DRY_RUN",
    }
)  # fmt: skip
"""Settings that would put the packages elsewhere, or other ones."""

_PIP_TO_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_NO_INDEX",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
    "PIP_CERT": "SSL_CERT_FILE",
}
"""Whoever configured pip by variables need not configure uv again."""

_UV_SEPARATED_BY_COMMAS = frozenset({"UV_FIND_LINKS"})
_UV_OPTIONS = {"--pre": "--prerelease=allow", "--trusted-host": "--allow-insecure-host"}
_LOGIN = re.compile(r"://[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class Installer:
    """A program that installs packages; ``command`` is how it begins, ``name`` uv or pip."""

    name: str
    command: tuple[str, ...]

    def arguments(
        self, python: Path, requirements: Path, constraints: Path | None, set_: Dependencies
    ) -> list[str]:
        """The whole command for installing ``requirements`` where ``python`` is."""
        limits = ["--constraint", str(constraints)] if constraints is not None else []
        if self.name == "uv":
            options = [_UV_OPTIONS.get(each, each) for each in set_.options]
            head = ["pip", "install", "--no-progress", "--color=never", "--no-python-downloads"]
            where = ["--python", str(python)]
        else:
            options = list(set_.options)
            head = ["--python", str(python), "install", "--no-input", "--progress-bar=off"]
            where = ["--disable-pip-version-check", "--no-warn-script-location"]
        return [*self.command, *head, *where, *limits, *options, "-r", str(requirements)]

    def environ(self, server: Mapping[str, str], cache: Path, set_: Dependencies) -> dict[str, str]:
        """Its environment: settings of pip and uv pass, secrets of the server do not."""
        environ = {
            name: value
            for name, value in server.items()
            if name in _INHERITED or name.startswith(("PIP_", "UV_", "LC_", "XDG_"))
            if name not in _NOT_INHERITED
        }
        if index := server.get("LLAMADEPLOY_INDEX_URL", "").strip():
            environ["PIP_INDEX_URL"] = environ["UV_DEFAULT_INDEX"] = index
            if index.startswith("http://"):
                # An index inside a cluster has no TLS; pip would ignore it without a word.
                host = urlsplit(index).netloc.rpartition("@")[2]
                trusted = environ.get("PIP_TRUSTED_HOST", "").split()
                environ["PIP_TRUSTED_HOST"] = " ".join([*trusted, host])
        if self.name == "uv":
            _translate(environ)
            for line in set_.lines:
                if line.startswith("--index-url "):
                    # To uv a variable counts more than a line of the file, unlike to pip.
                    environ["UV_DEFAULT_INDEX"] = line.partition(" ")[2]
        environ.setdefault("UV_CACHE_DIR", str(cache / "uv"))
        environ.setdefault("PIP_CACHE_DIR", str(cache / "pip"))
        environ |= {"GIT_TERMINAL_PROMPT": "0", "PYTHONUNBUFFERED": "1"}
        return environ


def find_installer() -> Installer:
    """uv next to this Python, importable or on the PATH; else this Python's pip. Blocking.

    Raises:
        ConfigurationError: there is neither.
    """
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
    if uv is not None:
        return Installer("uv", (uv,))
    if importlib.util.find_spec("uv") is not None:
        return Installer("uv", (sys.executable, "-m", "uv"))
    if importlib.util.find_spec("pip") is not None:
        version = importlib.metadata.version("pip")
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= _OLDEST_PIP:
            return Installer("pip", (sys.executable, "-m", "pip"))
    raise ConfigurationError(
        "python-dependencies: installing them needs uv, or pip 22.3 or newer, on the server's "
        "machine; run 'pip install uv' in the environment of the server"
    )


def without_logins(text: str) -> str:
    """``text`` without users and passwords of URLs."""
    return _LOGIN.sub("://***@", text)


def _translate(environ: dict[str, str]) -> None:
    for theirs, ours in _PIP_TO_UV.items():
        if (value := environ.get(theirs)) and ours not in environ:
            separated = ours in _UV_SEPARATED_BY_COMMAS
            environ[ours] = ",".join(value.split()) if separated else value
