"""What runs here: the machine, how idle it is, and the CPU time that a server used."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 2.0


def machine() -> dict[str, Any]:
    """Cores this process may use, model of the CPU, kernel, Python."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def idle_share(seconds: float = SAMPLE_SECONDS) -> float:
    """How much of all cores nobody used during the next `seconds`, 0 to 1."""
    idle, total = _idle_and_total()
    time.sleep(seconds)
    idle_after, total_after = _idle_and_total()
    return (idle_after - idle) / max(total_after - total, 1)


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a process and its living descendants."""
    used: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text()
        except OSError:  # it ended meanwhile
            continue
        # The name of the process, in parentheses, may hold anything.
        fields = text.rpartition(")")[2].split()
        children.setdefault(int(fields[1]), []).append(int(folder.name))
        used[int(folder.name)] = int(fields[11]) + int(fields[12])
    total, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        total += used.get(each, 0)
        waiting += children.get(each, [])
    return total / TICKS


def _idle_and_total() -> tuple[int, int]:
    line = Path("/proc/stat").read_text().splitlines()[0]
    ticks = [int(each) for each in line.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"
