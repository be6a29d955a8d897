"""Control groups of a node's own.

A kubelet kills what it finds in control groups of pods that it does not know. Two of them on one
machine, both with the usual ``/kubepods``, kill each other's pods.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
REMOVE_SECONDS = 10.0


def hierarchies() -> list[Path]:
    """One of version 2, or one for each controller."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(mount[1]) for mount in mounts if mount[2] == "cgroup"]


def make(name: str) -> None:
    """Make the group in each hierarchy; the kubelet wants it to be there."""
    for hierarchy in hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in version 1: nothing may run
            path = hierarchy / name / setting
            if hierarchy != ROOT and path.exists() and not path.read_text().strip():
                path.write_text((hierarchy / setting).read_text())


def remove(name: str) -> None:
    """Remove it with all below; what still has processes after a while stays. Idempotent."""
    deadline = time.monotonic() + REMOVE_SECONDS
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            while not _removed(Path(folder)) and time.monotonic() < deadline:
                time.sleep(0.05)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # its processes are on their way out
        return False
    return True
