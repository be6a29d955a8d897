"""What commands print: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

Record = Mapping[str, Any]
Columns = Mapping[str, Callable[[Any], str] | str]
"""Title of a column to the record's field, or to a function of the record."""


def output_option(*formats: str) -> Callable[[Any], Any]:
    """``-o/--output``; the first of ``formats`` is the default."""
    formats = formats or ("table", "json", "yaml")
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help=f"{formats[0]} for people; the others have every detail.",
    )


def print_records(records: Sequence[Record], columns: Columns, output: str, empty: str) -> None:
    """Print records as asked for.

    Args:
        empty: what a table without rows says, on standard error.
    """
    if output != "table":
        print_data([dict(record) for record in records], output)
        return
    if not records:
        click.echo(empty, err=True)
        return
    rows = [
        list(columns),
        *([_cell(record, field) for field in columns.values()] for record in records),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_data(data: Any, output: str) -> None:
    """Print plain data as ``json`` or ``yaml``."""
    if output == "json":
        click.echo(json.dumps(data, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


def age(since: float | None, now: float | None = None) -> str:
    """How long ago that was, such as ``5s``, ``12m``, ``3h``, ``4d``."""
    if since is None:
        return "-"
    seconds = max(0, int((time.time() if now is None else now) - since))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def printable(text: str) -> str:
    """Without control characters, which a workflow may write and a terminal would obey."""
    return "".join(each if each.isprintable() or each == "\t" else "?" for each in text)


def _cell(record: Record, field: Callable[[Any], str] | str) -> str:
    value = field(record) if callable(field) else record.get(field)
    if value is None or value == "":
        return "-"
    lines = str(value).splitlines()
    return printable(lines[-1].strip()) if lines else "-"
