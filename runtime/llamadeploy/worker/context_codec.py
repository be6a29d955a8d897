"""Contexts, snapshots and events as JSON text: signed, versioned, and of allowed types only.

The library's own serializer imports whatever name it reads. Here a name resolves to a type the
workflow declares (events of its steps, its state), to one of the framework's, or to a class that
the workflow's code has already loaded and that is an event, a pydantic model, a LlamaIndex
component or an exception. Nothing is ever imported to read data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import workflows.events as framework_events
from pydantic import BaseModel
from workflows import Context, Workflow
from workflows.context.serializers import JsonSerializer
from workflows.context.state_store import DictState, infer_state_type
from workflows.events import Event, InternalDispatchEvent

from llamadeploy.exceptions import LlamaDeployError, SignatureError
from llamadeploy.signing import KeyRing
from llamadeploy.state_stores.records import InboundEvent
from llamadeploy.worker.engine import Answered, ObservedRun

VERSION = 1
"""Of the envelope; one that is higher was written by a newer release and is refused."""

_ALIASES = ("llama_index.core.workflow.", "workflows.")
_MAX_SHOWN = 200


class ContextError(LlamaDeployError):
    """A context, snapshot or event cannot be written or read; the message says which part."""


class UnknownTypeError(ContextError):
    """The text names a type which is not allowed or which the code does not have (any more)."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A pending ``wait_for_event``. ``deadline``: seconds since the epoch, ``None`` for never."""

    step: str
    waiter_id: str
    deadline: float | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A parked run: the library's context, and what the library does not keep in it.

    Attributes:
        context: ``Context.to_dict()`` taken while the run was idle.
        waiters: pending waiters, with the deadlines that the library forgets.
        held: accepted events which the run was offered and did not take.
        calls: see :meth:`llamadeploy.worker.calls.CallScope.dump`.
    """

    context: dict[str, Any]
    waiters: tuple[Waiter, ...] = ()
    held: tuple[InboundEvent, ...] = ()
    calls: dict[str, Any] = {}
    version: int = VERSION


class _Envelope(msgspec.Struct, frozen=True):
    context: dict[str, Any]
    version: int = VERSION


class AllowedTypes(JsonSerializer):
    """The library's JSON format, with names resolved as the module's docstring says."""

    def __init__(self, *declared: type[Any]) -> None:
        super().__init__(allowed_types=declared)

    def with_types(self, *classes: type[Any]) -> JsonSerializer:
        """This very serializer, with more declared types (the library adds them to runs)."""
        known = set(self._registered_types.values())
        if known.issuperset(classes):
            return self
        return AllowedTypes(*known, *classes)

    def resolve_class(self, qualified_name: str) -> type[Any]:
        """The class of that name.

        Raises:
            UnknownTypeError: not allowed, or not loaded.
        """
        registered = self._registered_types.get(qualified_name)
        if registered is not None:
            return registered
        found = _framework_type(qualified_name) or _loaded_type(qualified_name)
        if found is None:
            raise UnknownTypeError(
                f"the type {qualified_name[:_MAX_SHOWN]!r} is neither declared by the workflow nor "
                "a model that its code has loaded"
            )
        return found

    def serialize(self, value: Any) -> str:
        """JSON of ``value``.

        Raises:
            ContextError: names the place and the type that has no JSON form; never the value.
        """
        try:
            return json.dumps(self.serialize_value(value))
        except Exception as error:  # noqa: BLE001 - whatever a user's model raises while dumped
            place, culprit = _find_culprit(self, value)
            raise ContextError(
                f"{culprit}{place} cannot be written as JSON ({type(error).__name__}); "
                "keep plain values or pydantic models in the context"
            ) from None

    def serialize_value(self, value: Any) -> Any:
        """As the library does; refuses a model which could not be read back."""
        if isinstance(value, BaseModel):
            self.require(type(value))
        return super().serialize_value(value)

    def require(self, cls: type[Any]) -> None:
        """Raises UnknownTypeError unless ``cls`` is found again by its name."""
        name = qualified_name(cls)
        if self.resolve_class(name) is not cls:
            raise UnknownTypeError(
                f"the type {name!r} is not at the top of its module under that name, so that it "
                "would not be found again"
            )


class ContextCodec:
    """Writes and reads what runs of one workflow leave behind.

    Args:
        workflow: whose declared events and state types are allowed.
        keyring: signs and verifies.
    """

    def __init__(self, workflow: Workflow, keyring: KeyRing) -> None:
        self._workflow = workflow
        self._keyring = keyring
        state = infer_state_type(workflow)
        declared: list[type[Any]] = [
            *dict.fromkeys(_declared_events(workflow)),
            DictState,
            Answered,
        ]
        if state is not DictState:
            declared.append(state)
        self.serializer = AllowedTypes(*declared)
        self.dropped = 0
        """Events from outside that could not be read; counted by the runs that dropped them."""
        self._contexts = msgspec.json.Decoder(_Envelope)
        self._snapshots = msgspec.json.Decoder(Snapshot)

    def new_context(self) -> Context:
        """An empty context."""
        return Context(self._workflow, serializer=self.serializer)

    def save(self, run: ObservedRun) -> dict[str, Any]:
        """The context of a run that is idle or has ended.

        Raises:
            ContextError: names the key or event that has no JSON form.
        """
        try:
            for awaited in run.awaited_types():
                self.serializer.require(awaited)
            return run.save(self.serializer)
        except Exception as error:
            raise ContextError(f"the workflow's context cannot be saved: {error}") from error

    def sign_context(self, run: ObservedRun) -> str:
        """The signed text of a finished run's context. Raises ContextError as :meth:`save`."""
        return self._keyring.sign("context", _encode(_Envelope(self.save(run))))

    def sign_snapshot(self, snapshot: Snapshot) -> str:
        """The signed text of a parked run."""
        return self._keyring.sign("snapshot", _encode(snapshot))

    def read_context(self, signed: str) -> Context:
        """What :meth:`sign_context` wrote.

        Raises:
            SignatureError: not signed by one of our keys.
            ContextError: of a newer version, or it names a type that the code does not have.
        """
        payload = self._keyring.verify("context", signed)
        return self._restore("session's context", _decode(self._contexts, payload).context)

    def read_snapshot(self, signed: str) -> tuple[Snapshot, Context]:
        """What :meth:`sign_snapshot` wrote. Raises as :meth:`read_context`, and ContextError where
        the code no longer has a step of the parked run."""
        snapshot = _decode(self._snapshots, self._keyring.verify("snapshot", signed))
        have = self._workflow._get_steps()
        missing = sorted(step for step in snapshot.context.get("workers", {}) if step not in have)
        if missing:
            raise ContextError(
                f"the run was parked by code with the step(s) {', '.join(missing)}; the workflow "
                f"now has {', '.join(sorted(have))}"
            )
        return snapshot, self._restore("parked run", snapshot.context)

    def read_event(self, text: str) -> Event:
        """An event as clients send it: ``{"__is_pydantic": true, "value": {...},
        "qualified_name": "..."}``.

        Raises:
            ContextError: not of that form, not an event's type, or the fields do not fit it.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ContextError(f"the event is not JSON: {error}") from None
        except RecursionError:
            raise ContextError("the event's JSON is nested too deeply") from None
        if not isinstance(data, dict) or not isinstance(data.get("qualified_name"), str):
            raise ContextError("the event must be an object with 'qualified_name' and 'value'")
        cls = self.serializer.resolve_class(data["qualified_name"])
        if not issubclass(cls, Event) or issubclass(cls, InternalDispatchEvent):
            raise UnknownTypeError(f"{data['qualified_name'][:_MAX_SHOWN]!r} is not an event")
        try:
            return cls.model_validate(data.get("value") or {})
        except Exception as error:  # noqa: BLE001 - a user's validators may raise anything
            raise ContextError(f"the event's value does not fit {cls.__name__}: {error}") from None

    def _restore(self, what: str, data: dict[str, Any]) -> Context:
        try:
            return Context.from_dict(self._workflow, data, serializer=self.serializer)
        except Exception as error:
            raise ContextError(f"the {what} cannot be loaded: {error}") from error


def qualified_name(cls: type[Any]) -> str:
    """A type's name as it travels."""
    return f"{cls.__module__}.{cls.__name__}"


def _encode(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


def _decode(decoder: msgspec.json.Decoder[Any], payload: str) -> Any:
    try:
        value = decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise ContextError(f"a context of an unknown form: {error}") from None
    if value.version > VERSION:
        raise ContextError(
            f"the context has version {value.version}; this release reads up to {VERSION}: "
            "upgrade this worker"
        )
    return value


def _declared_events(workflow: Workflow) -> Iterator[type[Any]]:
    yield from workflow.events
    yield workflow.start_event_class
    yield workflow.stop_event_class


def _framework_type(name: str) -> type[Any] | None:
    """``workflows.events.X`` under any of the names it has had: by its last part."""
    if name.startswith(_ALIASES):
        found = getattr(framework_events, name.rpartition(".")[2], None)
        if isinstance(found, type) and issubclass(found, (Event, Exception)):
            return found
    return None


def _loaded_type(name: str) -> type[Any] | None:
    """A class that is in memory already, and of a kind that data may name."""
    module, _, attribute = name.rpartition(".")
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    if not isinstance(found, type):
        return None
    component = hasattr(found, "class_name") and hasattr(found, "from_dict")
    return found if component or issubclass(found, (BaseModel, Exception)) else None


def _find_culprit(
    serializer: AllowedTypes, value: Any, place: str = "", levels: int = 20
) -> tuple[str, str]:
    """Where inside ``value`` the first part without a JSON form is, and its type's name.

    Not deeper than ``levels``: each writes all that is below it once more.
    """
    parts: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        parts = [(f"[{key!r}]"[:_MAX_SHOWN], part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"[{index}]", part) for index, part in enumerate(value)]
    for key, part in parts if levels else ():
        try:
            json.dumps(serializer.serialize_value(part))
        except Exception:  # noqa: BLE001 - any failure marks the part
            return _find_culprit(serializer, part, place + key, levels - 1)
    return (f" at {place}" if place else ""), f"a {qualified_name(type(value))}"


__all__ = [
    "AllowedTypes",
    "ContextCodec",
    "ContextError",
    "SignatureError",
    "Snapshot",
    "UnknownTypeError",
    "Waiter",
    "qualified_name",
]
