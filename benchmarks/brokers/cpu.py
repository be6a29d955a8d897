"""CPU time of groups of processes, in nanoseconds, from `/proc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Clocks = dict[str, dict[int, int]]
"""By group: nanoseconds by thread."""

PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text()
            except OSError:  # it ended meanwhile
                continue
            # The name of the process, in parentheses, may hold anything.
            children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(
                int(folder.name)
            )
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def clocks(groups: Mapping[str, Sequence[int]]) -> Clocks:
    """What the processes of each group have used so far; a group's processes are found by its
    roots, and of a group called `<name> workers` the main threads (the I/O) are told from the
    others (the workflow)."""
    return {
        name: {
            thread: used
            for root in roots
            for pid in tree(root)
            for thread, used in _threads(pid).items()
        }
        for name, roots in groups.items()
    }


def spent(before: Clocks, after: Clocks, count: int) -> dict[str, float]:
    """Microseconds per task and group between two readings."""
    return {
        name: sum(
            used - before.get(name, {}).get(thread, 0) for thread, used in threads.items()
        ) / 1000 / max(count, 1)
        for name, threads in after.items()
    }  # fmt: skip


def only(clock: Mapping[int, int], main: bool) -> dict[int, int]:
    """The main threads of processes, or all the others."""
    return {thread: used for thread, used in clock.items() if (_is_main(thread)) is main}


def _is_main(thread: int) -> bool:
    try:
        status = (PROC / str(thread) / "status").read_text()
    except OSError:
        return False
    return f"\nTgid:\t{thread}\n" in status


def _threads(pid: int) -> dict[int, int]:
    found = {}
    try:
        folders = list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return {}
    for folder in folders:
        try:
            found[int(folder.name)] = int((folder / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return found
