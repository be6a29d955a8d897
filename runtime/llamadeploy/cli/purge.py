"""``llamactl purge``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from llamadeploy.cli.output import output_option, print_data
from llamadeploy.exceptions import LlamaDeployError
from llamadeploy.message_queues.base import MessageQueue
from llamadeploy.message_queues.registry import QUEUE_TYPES, open_queue, queue_config
from llamadeploy.messages import topic_name
from llamadeploy.spec import load_deployments
from llamadeploy.state_stores.base import StateStore
from llamadeploy.state_stores.records import TaskQuery
from llamadeploy.state_stores.registry import is_shared, open_store
from llamadeploy.types import CONTROL_PLANE_NAME, TaskState

_T = TypeVar("_T")

LIVE_EXIT_CODE = 4
"""Workers hold tasks of the deployment."""

EXTERNAL = sorted(n for n, t in QUEUE_TYPES.items() if not t.unavailable and n != "simple")


@dataclass(frozen=True, slots=True)
class Target:
    """What to purge, and where; a part that is ``None`` stays as it is."""

    namespace: str
    queue_type: str | None
    queue_url: str | None
    state_store_uri: str | None
    queue_options: dict[str, Any] = field(default_factory=dict)


NAMING_OPTIONS = ("exchange_name", "exclusive_mode")
"""Options of queues, beyond what is in their URLs, that say where and what its topics are."""


def _json_object(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any]:
    """An option whose value is the JSON of an object; empty where it was not given."""
    if not value:
        return {}
    try:
        found = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}", ctx, param) from None
    if not isinstance(found, dict):
        raise click.BadParameter(
            'it must be a JSON object, such as \'{"exchange_name": "mine"}\'', ctx, param
        )
    return found


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("-d", "--deployment", help="Which one of FILE, where there are several.")
@click.option(
    "-n",
    "--namespace",
    help="Prefix of topics and keys: <namespace>.<name> in a cluster; default with FILE: its "
    "topic-namespace, or llama_deploy.<name>.",
)
@click.option("--queue-type", type=click.Choice(EXTERNAL), help="Type of the message queue.")
@click.option(
    "--queue-url",
    envvar="LLAMADEPLOY_QUEUE_URL",
    show_envvar=True,
    help="Its URL, with --queue-type.",
)
@click.option(
    "--queue-options",
    metavar="JSON",
    callback=_json_object,
    envvar="LLAMADEPLOY_QUEUE_OPTIONS",
    show_envvar=True,
    help="Its other settings as JSON: a RabbitMQ exchange_name that is not the default.",
)
@click.option(
    "--state-store-uri",
    envvar="LLAMADEPLOY_STATE_STORE_URI",
    show_envvar=True,
    help="URI of the state store.",
)
@click.option("--dry-run", is_flag=True, help="Say what is there, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where no terminal is.")
@click.option("--force", is_flag=True, help="Also while workers seem to hold tasks of it.")
@output_option("text", "json")
def purge(
    file: Path | None,
    deployment: str | None,
    namespace: str | None,
    queue_type: str | None,
    queue_url: str | None,
    queue_options: dict[str, Any],
    state_store_uri: str | None,
    dry_run: bool,
    yes: bool,
    force: bool,
    output: str,
) -> None:
    """Remove a deployment's topics and keys from an external message queue and state store.

    Everything of this one deployment is removed: tasks, results, sessions, services, dead letters
    and messages. What other deployments have there stays. They are named by a deployment file FILE
    (or a manifest), or by options, which win over it.

    Stop the deployment's processes first: while workers hold tasks this is refused (exit code 4).
    Idle processes cannot be told from here.
    """
    if not (yes or dry_run) and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: add --yes to purge, or --dry-run")
    try:
        found = _from_file(file, deployment) if file is not None else None
        target = _target(found, namespace, queue_type, queue_url, state_store_uri)
        target = replace(target, queue_options={**target.queue_options, **queue_options})
        report = _purge(target, dry_run=dry_run, yes=yes, force=force)
    except LlamaDeployError as error:
        raise click.ClickException(str(error)) from error
    if output == "json":
        print_data(report, "json")
    elif dry_run:
        click.echo(f"Nothing was removed. {target.namespace} has {_described(report)}.")
    else:
        click.echo(f"Purged: {target.namespace}, which had {_described(report)}.")


def _from_file(file: Path, deployment: str | None) -> Target:
    specs = load_deployments(file.read_text(encoding="utf-8-sig"), file=str(file))
    chosen = [spec for spec in specs if deployment in (None, spec.name)]
    if len(chosen) != 1:
        names = ", ".join(spec.name for spec in specs) or "none"
        raise click.UsageError(f"--deployment must name one of FILE's deployments: {names}")
    (spec,) = chosen
    queue = spec.message_queue
    uri = spec.control_plane.state_store_uri
    found = Target(
        namespace=spec.control_plane.topic_namespace or f"llama_deploy.{spec.name}",
        queue_type=None,
        queue_url=None,
        state_store_uri=uri if uri and is_shared(uri) else None,
    )
    if queue.type not in EXTERNAL:
        return found
    settings = dict(queue_config(queue.type, **queue.options))
    naming = {name: settings[name] for name in NAMING_OPTIONS if name in settings}
    return replace(found, queue_type=queue.type, queue_url=settings["url"], queue_options=naming)


def _target(
    found: Target | None,
    namespace: str | None,
    kind: str | None,
    queue_url: str | None,
    state_store_uri: str | None,
) -> Target:
    found = found or Target("", None, None, None)
    same = kind in (None, found.queue_type)
    target = Target(
        namespace=namespace or found.namespace,
        queue_type=kind or found.queue_type,
        queue_url=queue_url or (found.queue_url if same else None),
        state_store_uri=state_store_uri or found.state_store_uri,
        queue_options=found.queue_options if same else {},
    )
    if not target.namespace:
        raise click.UsageError("name FILE or --namespace: what is to be purged?")
    if target.queue_type is None and target.state_store_uri is None:
        raise click.UsageError(
            "no external message queue or state store is named: use --queue-type with --queue-url, "
            "and --state-store-uri. What 'llamactl serve' keeps itself goes with 'llamactl delete'"
        )
    if target.queue_type is not None and target.queue_url is None:
        raise click.UsageError("--queue-type needs --queue-url")
    return target


def _purge(target: Target, *, dry_run: bool, yes: bool, force: bool) -> dict[str, Any]:
    report, workers = asyncio.run(_with(target, _inspect))
    if dry_run:
        return {**report, "purged": False}
    if workers and not force:
        click.echo(
            f"Error: workers hold tasks of it ({', '.join(workers[:5])}): stop the deployment's "
            "processes first; where they are gone already, add --force",
            err=True,
        )
        raise click.exceptions.Exit(LIVE_EXIT_CODE)
    if not yes:
        click.echo(f"{target.namespace} has {_described(report)}.", err=True)
        click.confirm(f"Remove everything of '{target.namespace}'?", abort=True, err=True)
    tasks, topics = asyncio.run(_with(target, _remove))
    return {**report, "purged": True, "tasks": tasks, "topics": topics}


async def _with(
    target: Target,
    act: Callable[[str, StateStore | None, MessageQueue | None], Awaitable[_T]],
) -> _T:
    async with AsyncExitStack() as stack:
        store = queue = None
        if target.state_store_uri is not None:
            store = await open_store(target.state_store_uri, target.namespace, worker=True)
            stack.push_async_callback(store.aclose)
        if target.queue_type is not None:
            queue = open_queue(target.queue_type, target.queue_url, target.queue_options)
            stack.push_async_callback(queue.aclose)
            await queue.ping()
        return await act(target.namespace, store, queue)


async def _remove(
    namespace: str, store: StateStore | None, queue: MessageQueue | None
) -> tuple[int | None, int | None]:
    """How many tasks and topics are gone; ``None`` for what was not named."""
    tasks = await store.purge() if store is not None else None
    return tasks, await queue.purge(namespace) if queue is not None else None


async def _inspect(
    namespace: str, store: StateStore | None, queue: MessageQueue | None
) -> tuple[dict[str, Any], list[str]]:
    """What there is (``None`` for what was not named), and the workers that hold tasks."""
    report: dict[str, Any] = {"namespace": namespace, "tasks": None, "unfinished": None}
    report |= {"sessions": None, "services": None, "messages": None}
    services: list[str] = []
    workers: list[str] = []
    if store is not None:
        counts = await store.counts()
        states = {state: counts[state.value] for state in TaskState}
        services = sorted(await store.list_services())
        report |= {
            "tasks": sum(states.values()),
            "unfinished": sum(n for state, n in states.items() if not state.terminal),
            "sessions": len(await store.list_sessions()),
            "services": services,
        }
        running = await store.find_tasks(TaskQuery(states=(TaskState.RUNNING,), limit=1000))
        workers = sorted({record.owner for record in running if record.owner})
    if queue is not None:
        topics = [topic_name(namespace, name) for name in (*services, CONTROL_PLANE_NAME)]
        report["messages"] = sum([await queue.depth(topic) for topic in topics])
    return report, workers


def _described(report: dict[str, Any]) -> str:
    parts = []
    if report["tasks"] is not None:
        parts.append(f"{report['tasks']} tasks ({report['unfinished']} of them unfinished)")
        parts.append(f"{report['sessions']} sessions")
        parts.append(f"{len(report['services'])} services")
    if report["messages"] is not None:
        parts.append(f"{report['messages']} messages")
    return ", ".join(parts)
