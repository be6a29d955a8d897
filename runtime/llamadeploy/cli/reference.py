"""The reference of every command, made of their help: ``python -m llamadeploy.cli.reference``
writes it into ``docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from llamadeploy.cli.main import llamactl

BEGIN = "<!-- From here on made by `python -m llamadeploy.cli.reference`; do not edit. -->"
WIDTH = 90


def reference() -> str:
    """Markdown with the help of each command, groups before their commands."""
    root = click.Context(
        llamactl, info_name="llamactl", terminal_width=WIDTH, **llamactl.context_settings
    )
    return "\n".join(_sections(root))


def updated(document: str) -> str:
    """The document with everything behind :data:`BEGIN` made anew.

    Raises:
        ValueError: it has no such line.
    """
    head, found, _ = document.partition(BEGIN)
    if not found:
        raise ValueError(f"the document has no line {BEGIN!r}")
    return f"{head}{BEGIN}\n\n{reference()}"


def _sections(ctx: click.Context) -> Iterator[str]:
    yield f"### `{ctx.command_path}`\n\n```text\n{ctx.command.get_help(ctx)}\n```\n"
    if not isinstance(ctx.command, click.Group):
        return
    for name in ctx.command.list_commands(ctx):
        command = ctx.command.get_command(ctx, name)
        if command is not None and not command.hidden:
            yield from _sections(click.Context(command, ctx, info_name=name, terminal_width=WIDTH))


if __name__ == "__main__":
    path = Path("docs/cli.md")
    path.write_text(updated(path.read_text()))
