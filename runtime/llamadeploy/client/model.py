"""What the SDK's models share, and how an event is written for the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llamadeploy.client.client import Client


class Model:
    """Something on a server, seen through a client; ``id`` is its name or id there."""

    def __init__(self, client: Client, id: str) -> None:
        self.client = client
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"


class EventLike(Protocol):
    """A workflow event, from ``workflows.events`` or ``llama_index.core.workflow``."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def serialize_event(event: EventLike) -> str:
    """An event as text, the way the workflow library's JSON serializer writes it.

    Raises:
        TypeError: not an event.
    """
    if not callable(getattr(event, "model_dump", None)):
        raise TypeError(
            f"an event must be an instance of a workflow Event class, not {type(event).__name__}"
        )
    kind = type(event)
    return json.dumps(
        {
            "__is_pydantic": True,
            "value": event.model_dump(mode="json"),
            "qualified_name": f"{kind.__module__}.{kind.__name__}",
        }
    )
