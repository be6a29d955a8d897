"""``llamactl run``."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import IO, Any

import click

from llamadeploy.cli.events import event_line
from llamadeploy.cli.options import deployment_option, service_option
from llamadeploy.cli.output import output_option
from llamadeploy.cli.profiles import Profile
from llamadeploy.cli.session import run_async
from llamadeploy.client import Client
from llamadeploy.types import TaskDefinition, TaskResult

TASK_FAILED = 3
"""Exit code when the task ran, and failed or was cancelled; its text was printed."""


def _parse(
    ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    parsed = {}
    for key, text in pairs:
        try:
            parsed[key] = json.loads(text)
        except ValueError as error:
            wrong = f"{key}: {text!r} is not JSON ({error}); a text needs quotes: '\"text\"'"
            raise click.BadParameter(wrong, ctx, param) from error
    return parsed


@click.command()
@deployment_option
@click.option(
    "-a",
    "--arg",
    multiple=True,
    type=(str, str),
    metavar="KEY VALUE",
    help="An argument for the workflow, as text; may be repeated: -a name Ada -a age 30.",
)
@click.option(
    "-j",
    "--json-arg",
    multiple=True,
    type=(str, str),
    callback=_parse,
    metavar="KEY JSON",
    help="An argument as JSON; may be repeated: -j count 3 -j tags '[\"a\"]'.",
)
@click.option(
    "--input",
    "input_file",
    type=click.File(encoding="utf-8"),
    help="A file with a JSON object of arguments, - for standard input; -a and -j add to it.",
)
@service_option("Service to run; default: the deployment's.")
@click.option("-i", "--session-id", help="Session to run it in; default: one of its own.")
@click.option("--idempotency-key", help="A repeat with the same key is the same task.")
@click.option("--stream", is_flag=True, help="Print the task's events as they come.")
@click.option("--no-wait", is_flag=True, help="Print the task's id at once and leave it running.")
@output_option("text", "json")
@click.pass_obj
def run(
    profile: Profile,
    deployment: str,
    arg: tuple[tuple[str, str], ...],
    json_arg: dict[str, Any],
    input_file: IO[str] | None,
    service: str | None,
    session_id: str | None,
    idempotency_key: str | None,
    stream: bool,
    no_wait: bool,
    output: str,
) -> None:
    """Run a task and print its result.

    Exit code 3 when the task failed or was cancelled; then the result is the error's text.
    """
    if stream and no_wait:
        raise click.UsageError("--stream waits for the task: leave out --no-wait")
    arguments = {**_read(input_file), **dict(arg), **json_arg}
    task = TaskDefinition(input=json.dumps(arguments), service_id=service, session_id=session_id)

    async def submit(client: Client) -> TaskResult | None:
        tasks = (await client.apiserver.deployments.get(deployment)).tasks
        if no_wait:
            created = await tasks.create(task, idempotency_key)
            _print_created(created.id, created.session_id, output)
            return None
        if stream:
            keep = session_id is not None or idempotency_key is not None
            return await _stream(client, deployment, task, idempotency_key, output, keep)
        return await tasks.run_result(task, idempotency_key)

    result = run_async(profile, submit)
    if result is not None:
        _print_result(result, output)


async def _stream(
    client: Client,
    deployment: str,
    task: TaskDefinition,
    idempotency_key: str | None,
    output: str,
    keep_session: bool,
) -> TaskResult:
    """Run with the events printed; a session of the task's own goes when it succeeded, as without
    a stream."""
    found = await client.apiserver.deployments.get(deployment)
    created = await found.tasks.create(task, idempotency_key)
    async with aclosing(created.events(typed=True)) as events:
        async for item in events:
            click.echo(event_line(item, output))
    result = await created.result()
    assert result is not None  # noqa: S101 - without a deadline it waits
    if not keep_session and not result.data.get("state"):
        await found.sessions.delete(created.session_id)
    return result


def _read(file: IO[str] | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = json.load(file)
    except ValueError as error:  # also what is not UTF-8
        raise click.ClickException(f"--input: {file.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise click.ClickException(
            f'--input: {file.name} must hold a JSON object, such as {{"message": "hello"}}'
        )
    return content


def _print_created(task_id: str, session_id: str, output: str) -> None:
    record = {"task_id": task_id, "session_id": session_id}
    click.echo(json.dumps(record) if output == "json" else task_id)


def _print_result(result: TaskResult, output: str) -> None:
    state = result.data.get("state", "succeeded")
    if output == "json":
        record = {"task_id": result.task_id, "state": state, "result": result.result}
        click.echo(json.dumps(record))
    else:
        click.echo(result.result)
    if state != "succeeded":
        raise SystemExit(TASK_FAILED)
