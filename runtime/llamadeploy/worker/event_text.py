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
_MAX_FRAMES = 2000
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


def clean(text: str) -> str:
    """The text without lone surrogates, which no store and no JSON can take: each becomes U+FFFD,
    as for whoever decodes bytes. Python makes them of file names and of broken JSON."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(value: Any) -> str:
    try:
        return clean(str(value))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<{type(value).__name__}>"


def result_text(result: Any) -> str:
    """``str(result)``. A custom stop event shows its fields, as with the library of 0.8.1 (the
    newer one would show its unset ``result``)."""
    if isinstance(result, StopEvent) and type(result).__str__ is StopEvent.__str__:
        return clean(BaseModel.__str__(result))
    return clean(str(result))


def _trace(error: BaseException) -> str:
    """The traceback with all that led to the error. Of a recursion that wraps its error at every
    level only the outermost part: Python would format a million lines, and block for a minute."""
    if _frames(error) <= _MAX_FRAMES:
        return "".join(traceback.format_exception(error))
    last = "".join(traceback.format_tb(error.__traceback__, limit=-_MAX_FRAMES // 20))
    return f"... (cut)\n{last}{type(error).__qualname__}: {_text(error)}\n"


def _frames(error: BaseException) -> int:
    """How many frames the error and its causes have; stops counting above the limit."""
    count = 0
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending and count <= _MAX_FRAMES:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        pending += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
        frame = each.__traceback__
        while frame is not None and count <= _MAX_FRAMES:
            count, frame = count + 1, frame.tb_next
    return count


def failed(error: BaseException, *, retryable: bool, message: str | None = None) -> Failed:
    """The outcome for ``error``; ``message`` replaces its text."""
    text = clean(message) if message is not None else _text(error)
    trace = clean(_trace(error))
    if len(trace) > _MAX_TRACEBACK:
        trace = "... (cut)\n" + trace[-_MAX_TRACEBACK:]
    details = {"type": type(error).__name__, "message": text, "traceback": trace}
    return Failed(text, {"state": "failed", "error": details}, retryable=retryable)
