"""How a service's environment sees this one: our packages come after its own.

The environment is a virtual one without the machine's packages. A ``.pth`` file in it adds the
folders from which this process imports, behind those of the service: what the service pins wins,
and what it does not have (the worker itself, first of all) is found.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import site
import sys
import sysconfig
from pathlib import Path

import llamadeploy
from llamadeploy._version import __version__

DISTRIBUTION = "llamadeploy-operator"

PTH_NAME = "zzz_llamadeploy.pth"
"""The last by name: what ``.pth`` files of the service's packages add comes before ours."""


def runtime_folders() -> list[str]:
    """The folders that this process imports packages from, in order."""
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders = [site.getusersitepackages(), *folders]
    own = str(Path(llamadeploy.__file__).resolve().parent.parent)
    return list(dict.fromkeys([*filter(lambda each: Path(each).is_dir(), folders), own]))


def runtime_id() -> str:
    """Changes when an environment that was built for this runtime would not fit any more: another
    Python, another place, or another release of ours. Hexadecimal."""
    parts = [
        sys.version,
        sys.base_prefix,
        sysconfig.get_platform(),
        __version__,
        *runtime_folders(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def write_pth(site_packages: Path) -> None:
    """Let the environment see ours. ``addsitedir`` reads the folders' own ``.pth`` files too: an
    editable install is found."""
    lines = [f"import site; site.addsitedir({each!r})\n" for each in runtime_folders()]
    (site_packages / PTH_NAME).write_text("".join(lines), encoding="utf-8")


def runtime_constraints() -> list[str]:
    """Lines of a constraints file: the versions that the worker can run with. A service that pins
    another one is told so when it is installed, not by a worker that does not start."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # run from a source tree; what was built is tried out anyway
    return [each for each in required if "extra ==" not in each]
