"""A task's input as the start event of its workflow."""

from __future__ import annotations

import json

from pydantic import ValidationError
from workflows import Workflow
from workflows.events import StartEvent

from llamadeploy.exceptions import ConfigurationError


def start_event(workflow: Workflow, text: str) -> StartEvent:
    """The start event of a run.

    Args:
        text: a JSON object with the start event's fields, whatever they are called.

    Raises:
        ConfigurationError: no such object, or its fields do not fit; names them.
    """
    arguments = _arguments(text)
    cls = workflow.start_event_class
    try:
        return cls(**arguments)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or cls.__name__}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        given = ", ".join(sorted(arguments)) or "nothing"
        raise ConfigurationError(
            f"the task's input does not fit the start event {cls.__name__}: {problems} "
            f"(given: {given})"
        ) from None
    except Exception as error:
        raise ConfigurationError(
            f"the start event {cls.__name__} cannot be made of the task's input: {error}"
        ) from error


def _arguments(text: str) -> dict[str, object]:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"the task's input is not JSON: {error}") from None
    except RecursionError:
        raise ConfigurationError("the task's input is nested too deeply") from None
    if not isinstance(arguments, dict):
        raise ConfigurationError(
            "the task's input must be a JSON object with the workflow's arguments, got "
            f"{type(arguments).__name__}"
        )
    return arguments
