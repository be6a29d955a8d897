"""``llamactl tasks`` and ``llamactl cancel``."""

from __future__ import annotations

from typing import Any

import click

from llamadeploy.cli.options import deployment_option, service_option
from llamadeploy.cli.output import age, output_option, print_data, print_records
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import api_server
from llamadeploy.types import TaskState, TaskStatus

COLUMNS: dict[str, Any] = {
    "TASK": "task_id",
    "SERVICE": "service_id",
    "STATE": "state",
    "AGE": lambda record: age(record["created_at"]),
    "ATTEMPTS": "attempts",
    "EVENTS": "event_count",
    "SESSION": "session_id",
    "DETAIL": "detail",
}


@click.command()
@deployment_option
@click.option("-i", "--session-id", help="Only tasks of this session.")
@service_option("Only tasks of this service.")
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([state.value for state in TaskState]),
    help="Only tasks in this state; may be repeated.",
)
@click.option("--before", metavar="TASK_ID", help="Only tasks older than this one.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many."
)
@output_option()
@click.argument("task_id", required=False)
@click.pass_obj
def tasks(
    profile: Profile, /, deployment: str, task_id: str | None, output: str, **filters: Any
) -> None:
    """List tasks, the newest first; or show the one with TASK_ID."""
    with api_server(profile) as server:
        collection = server.deployments.get(deployment).tasks
        if task_id is not None:
            _show(collection.get(task_id).status(), output)
            return
        found: list[TaskStatus] = collection.statuses(states=filters.pop("state"), **filters)
    records = [status.model_dump(mode="json") for status in found]
    print_records(records, COLUMNS, output, "No tasks found.")


def _show(status: TaskStatus, output: str) -> None:
    record = status.model_dump(mode="json")
    if output == "table":
        shown = {**record, "age": age(status.created_at)}
        print_records(
            [{"field": name, "value": value} for name, value in shown.items()],
            {"FIELD": "field", "VALUE": "value"},
            output,
            "",
        )
    else:
        print_data(record, output)


@click.command()
@deployment_option
@click.argument("task_id", nargs=-1, required=True)
@click.pass_obj
def cancel(profile: Profile, deployment: str, task_id: tuple[str, ...]) -> None:
    """End the tasks with TASK_ID, with the calls of other services that they wait for.

    A task that has ended already keeps its result.
    """
    with api_server(profile) as server:
        collection = server.deployments.get(deployment).tasks
        for each in task_id:
            outcome = collection.get(each).cancel()
            if outcome.outcome == "cancelled":
                click.echo(f"Cancelled: {each}")
            else:
                click.echo(f"Had {outcome.state.value} already: {each}")
