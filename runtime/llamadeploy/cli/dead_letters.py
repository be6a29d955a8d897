"""``llamactl dead-letters``."""

from __future__ import annotations

from typing import Any

import click

from llamadeploy.cli.options import deployment_option
from llamadeploy.cli.output import age, output_option, print_records
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server

COLUMNS: dict[str, Any] = {
    "LETTER": "letter_id",
    "SERVICE": "service",
    "AGE": lambda record: age(record["created_at"]),
    "TASK": "task_id",
    "REASON": "reason",
}


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at work that was given up, try it again, or drop it.

    A task gets there when its workers died more often than max-retries allows, a message when no
    service understands it.
    """


@dead_letters.command("list")
@deployment_option
@output_option()
@click.pass_obj
def list_(profile: Profile, deployment: str, output: str) -> None:
    """List dead letters, the oldest first."""
    with api_server(profile) as server:
        found = server.deployments.get(deployment).dead_letters.list()
    records = [letter.model_dump(mode="json") for letter in found]
    print_records(records, COLUMNS, output, "There are no dead letters.")


@dead_letters.command()
@deployment_option
@click.argument("letter", type=int, nargs=-1, required=True)
@click.pass_obj
def retry(profile: Profile, deployment: str, letter: tuple[int, ...]) -> None:
    """Queue the task of each LETTER again, with its retries renewed."""
    with api_server(profile) as server:
        letters = server.deployments.get(deployment).dead_letters
        for each in letter:
            letters.retry(each)
            click.echo(f"Queued again: {each}")


@dead_letters.command()
@deployment_option
@click.argument("letter", type=int, nargs=-1, required=True)
@click.pass_obj
def delete(profile: Profile, deployment: str, letter: tuple[int, ...]) -> None:
    """Forget each LETTER; its task keeps its result."""
    with api_server(profile) as server:
        letters = server.deployments.get(deployment).dead_letters
        for each in letter:
            letters.delete(each)
            click.echo(f"Deleted: {each}")
