"""Every setting: of the operator, of pods, of servers and clients on a laptop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from docs.site.markdown import WRITTEN, table
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.message_queues import config as queues
from llamadeploy.settings import ApiserverSettings, PodSettings, variable
from llamadeploy.worker.service_config import WorkflowServiceConfig
from llamadeploy_operator.settings import ENV_PREFIX, OPTIONS

HEAD = """
# Settings

Where a value is missing in the column "default", nothing is set. A blank variable counts as not set
in pods.
"""
OPERATOR = """
## The operator

Flags of `llamadeploy-operator`; each can be given in the environment instead. The chart's values
`settings.*` have the same names in camelCase: [README](../../helm/llamadeploy-operator/README.md).

"""
PODS = """
## Control planes, orchestrators and workers

The operator writes these into pods; [by hand](../processes.md) you write them yourself. Nothing
else is read there.

"""
LAPTOP = """
## On a laptop, and from Python

Read by `llamactl serve`, `deploy_core`, `deploy_workflow` and the classes themselves, with the
names that LlamaDeploy 0.8.1 gave them. [Commands](../cli.md) have further variables, and
[code from git](../deployment-file.md#code-from-git) has `LLAMA_DEPLOY_GIT_*`.
"""
LAPTOP_SETTINGS: tuple[tuple[str, type[BaseSettings]], ...] = (
    ("API server", ApiserverSettings),
    ("Control plane", ControlPlaneConfig),
    ("Workflow service", WorkflowServiceConfig),
    ("Simple message queue", queues.SimpleMessageQueueConfig),
    ("Redis message queue", queues.RedisMessageQueueConfig),
    ("RabbitMQ message queue", queues.RabbitMQMessageQueueConfig),
)


def page() -> str:
    """The page."""
    text = WRITTEN + HEAD + OPERATOR
    text += table(("flag", "variable", "default", "meaning"), _options())
    text += PODS + table(("variable", "default", "what is right"), _fields(PodSettings, variable))
    text += LAPTOP
    for title, settings in LAPTOP_SETTINGS:
        prefix = settings.model_config.get("env_prefix", "")
        text += f"\n### {title}\n\n{_summary(settings)}\n\n"
        rows = _fields(settings, lambda name, prefix=prefix: f"{prefix}{name}".upper())
        text += table(("variable", "default", "what is right"), rows)
    return text


def options() -> list[click.Option]:
    """The operator's flags."""

    def bare() -> None: ...

    command = bare
    for option in reversed(OPTIONS):
        command = option(command)
    found = click.command()(command).params
    return [each for each in found if isinstance(each, click.Option)]


def _options() -> Iterator[tuple[str, str, str, str]]:
    for option in options():
        flag = "/".join((*option.opts, *option.secondary_opts))
        name = f"{ENV_PREFIX}_{option.name}".upper()
        default = "" if option.multiple else _shown(option.to_info_dict().get("default"))
        yield f"`{flag}`", f"`{name}`", default, option.help or ""


def _fields(settings: type[BaseModel], named: Any) -> Iterator[tuple[str, str, str]]:
    for name, field in settings.model_fields.items():
        if get_origin(field.annotation) is not Literal or len(get_args(field.annotation)) > 1:
            yield f"`{named(name)}`", _default(field), field.description or _kind(field)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    return _shown(field.default)


def _shown(value: Any) -> str:
    if value is None or value is PydanticUndefined or value == "" or "Sentinel" in repr(value):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(field: FieldInfo) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return next((text for kind, text in kinds.items() if _is(field, kind)), "")


def _is(field: FieldInfo, kind: type) -> bool:
    return field.annotation is kind or kind in get_args(field.annotation)


def _summary(settings: type[BaseSettings]) -> str:
    text = inspect.getdoc(settings) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first.replace("``", "`")
