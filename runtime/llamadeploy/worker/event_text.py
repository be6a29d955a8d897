"""What clients get to see of events, results and errors: the texts of LlamaDeploy 0.8.1."""

from __future__ import annotations

import json
import traceback
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json
from workflows.events import (
    Event,
    StopEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)

from llamadeploy.worker.contract import Failed

STOP_TYPE = f"{StopEvent.__module__}.{StopEvent.__name__}"
STOP_DATA = "{}"
"""The line with which every stream ends; the result itself does not travel in it."""

_BARE_STOPS = (StopEvent, WorkflowFailedEvent, WorkflowTimedOutEvent, WorkflowCancelledEvent)
_MAX_TRACEBACK = 16_384  # characters; the end of a traceback is what tells


def event_type(event: Event) -> str:
    """The type's name as it travels."""
    cls = type(event)
    return STOP_TYPE if cls in _BARE_STOPS else f"{cls.__module__}.{cls.__name__}"


def event_data(event: Event) -> str:
    """JSON of ``event.model_dump()``. Values without a JSON form become their nearest one, or
    their ``str()``; this never raises for what is in the event."""
    if type(event) in _BARE_STOPS:
        return STOP_DATA
    try:
        fields = event.model_dump()
    except Exception as error:  # noqa: BLE001 - a user's serialiser may raise anything
        return json.dumps({"error": f"the event could not be serialised: {type(error).__name__}"})
    if isinstance(event, StopEvent) and "result" not in type(event).model_fields:
        fields.pop("result", None)
    try:
        return json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError):
        return _lenient(fields)


def _lenient(fields: dict[str, Any]) -> str:
    try:
        return to_json(fields, fallback=_text, bytes_mode="base64", inf_nan_mode="null").decode()
    except Exception as error:  # noqa: BLE001 - cycles, keys without a JSON form, a user's model
        return json.dumps({"error": f"the event could not be serialised: {type(error).__name__}"})


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<{type(value).__name__}>"


def result_text(result: Any) -> str:
    """``str(result)``. A custom stop event shows its fields, as with the library of 0.8.1 (the
    newer one would show its unset ``result``)."""
    if isinstance(result, StopEvent) and type(result).__str__ is StopEvent.__str__:
        return BaseModel.__str__(result)
    return str(result)


def failed(error: BaseException, *, retryable: bool, message: str | None = None) -> Failed:
    """The outcome for ``error``; ``message`` replaces its text."""
    text = message if message is not None else _text(error)
    trace = "".join(traceback.format_exception(error))
    if len(trace) > _MAX_TRACEBACK:
        trace = "... (cut)\n" + trace[-_MAX_TRACEBACK:]
    details = {"type": type(error).__name__, "message": text, "traceback": trace}
    return Failed(text, {"state": "failed", "error": details}, retryable=retryable)
