"""``llamactl events``."""

from __future__ import annotations

import json

import click

from llamadeploy.cli.options import deployment_option
from llamadeploy.cli.output import output_option, printable
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import run_async
from llamadeploy.client import Client
from llamadeploy.types import StreamRestart, TaskEvent


@click.command()
@deployment_option
@click.option("-f", "--follow", is_flag=True, help="Wait for more, until the task ends.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    metavar="SEQ",
    help="Begin behind the event with this number.",
)
@output_option("text", "json")
@click.argument("task_id")
@click.pass_obj
def events(
    profile: Profile, deployment: str, follow: bool, after: int, output: str, task_id: str
) -> None:
    """Print the events of the task TASK_ID, with their numbers and types.

    With -o json each line is an object with seq, attempt, index, type and data; a line
    {"restart": ...} says that a new attempt writes anew from its base_index on.
    """

    async def show(client: Client) -> None:
        found = await client.apiserver.deployments.get(deployment)
        task = await found.tasks.get(task_id)
        async for item in task.events(after, typed=True, follow=follow):
            click.echo(event_line(item, output))

    run_async(profile, show)


def event_line(item: TaskEvent | StreamRestart, output: str) -> str:
    """One item of a stream as a line."""
    if output == "json":
        content = item.model_dump()
        return json.dumps({"restart": content} if isinstance(item, StreamRestart) else content)
    if isinstance(item, StreamRestart):
        return f"-- attempt {item.attempt} writes anew from index {item.base_index} on --"
    return printable(f"{item.seq}  {item.type}  {json.dumps(item.data, ensure_ascii=False)}")
