"""How a deployment comes up, told while it does: service by service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from llamadeploy.cli.output import printable

T = TypeVar("T")

POLL_SECONDS = 0.3

Details = dict[str, Any]
"""Of one deployment, as ``/status/`` tells them."""


async def with_progress(
    work: Awaitable[T], details: Callable[[], Awaitable[Details | None]], console: Console
) -> T:
    """Await ``work``, showing meanwhile what ``details`` tell.

    On a terminal lines are redrawn and vanish at the end; elsewhere each change is a line.
    """
    display = _Live(console) if console.is_terminal else _Plain(console)
    working = asyncio.ensure_future(work)
    try:
        with display.shown():
            while not (await asyncio.wait({working}, timeout=POLL_SECONDS))[0]:
                found = await details()
                if found is not None and not working.done():
                    display.update(progress_lines(found))
        return await working
    finally:
        working.cancel()


def progress_lines(details: Details) -> dict[str, str]:
    """What is told, by what it is about: a service, or the whole deployment (``""``)."""
    lines = {}
    if details.get("progress"):
        lines[""] = printable(str(details["progress"]))
    coming = details.get("next_services") or (
        details.get("services") if details.get("state") == "starting" else None
    )
    for name, service in (coming or {}).items():
        ready = f"{service.get('ready_replicas')}/{service.get('replicas')} ready"
        lines[name] = f"{service.get('state')}, {ready}"
        if service.get("last_error"):
            lines[name] += f": {printable(str(service['last_error']).splitlines()[-1])}"
    return lines


class _Plain:
    """For logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}

    def shown(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def update(self, lines: dict[str, str]) -> None:
        for about, line in lines.items():
            if self._shown.get(about) != line:
                self._shown[about] = line
                self._console.out(f"{about}: {line}" if about else line, highlight=False)


class _Live:
    """For a terminal."""

    def __init__(self, console: Console) -> None:
        self._spinner = Spinner("dots", text="Starting services ...")
        self._live = Live(self._spinner, console=console, transient=True, refresh_per_second=8)

    def shown(self) -> AbstractContextManager[Any]:
        return self._live

    def update(self, lines: dict[str, str]) -> None:
        self._spinner.update(text=lines.get("", "Starting services ..."))
        services = {about: line for about, line in lines.items() if about}
        width = max(map(len, services), default=0)
        rows = [Text(f"  {about.ljust(width)}  {line}") for about, line in services.items()]
        self._live.update(Group(self._spinner, *rows))
