"""Checks of what clients send, before anything is stored."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from typing import Any

import msgspec

from llamadeploy.exceptions import ConfigurationError

MAX_ID_LENGTH = 256
"""Characters of an id; ids are parts of URLs, topics and keys."""

_ID = re.compile(r"[^/\x00-\x1f\x7f]+")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOO_DEEP = "its JSON is nested too deeply: some hundred levels are possible"
_IDS = uuid.UUID("5f3f8a0e-5d0c-4a4e-9a63-0d0c2f7a7b51")


class InvalidFieldError(ConfigurationError):
    """A field of a request is wrong; over HTTP it is 422 with ``loc`` and ``msg``."""

    def __init__(self, location: tuple[str | int, ...], problem: str) -> None:
        super().__init__(f"{'.'.join(map(str, location))}: {problem}")
        self.location = location
        self.problem = problem


def check_id(value: str, *location: str) -> None:
    """Raises InvalidFieldError unless ``value`` can be an id."""
    if not _ID.fullmatch(value) or len(value) > MAX_ID_LENGTH:
        raise InvalidFieldError(
            location,
            f"an id has 1 to {MAX_ID_LENGTH} characters without '/' and control characters",
        )


def check_arguments(text: str, *location: str) -> None:
    """Raises InvalidFieldError unless ``text`` is a JSON object, the arguments of a run."""
    try:
        _OBJECT.decode(text)
    except (msgspec.DecodeError, RecursionError):
        # Python's own encoder writes NaN and Infinity, which msgspec refuses and workers read.
        _check_arguments_leniently(text, location)


def _check_arguments_leniently(text: str, location: tuple[str, ...]) -> None:
    example = """such as '{"message": "hello"}'"""
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise InvalidFieldError(
            location, f"must be the JSON text of an object, {example}; this is not JSON: {error}"
        ) from None
    except RecursionError:
        raise InvalidFieldError(location, _TOO_DEEP) from None
    if not isinstance(value, dict):
        raise InvalidFieldError(
            location,
            f"must be the JSON text of an object, {example}; this is {_json_type(value)}",
        )


def _json_type(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def check_event(text: str, *location: str) -> None:
    """Raises InvalidFieldError unless ``text`` is the JSON of an object (a serialised event)."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidFieldError(
            location, f"must be the JSON text of a serialised event; this is not JSON: {error}"
        ) from None
    except RecursionError:
        raise InvalidFieldError(location, _TOO_DEEP) from None
    if not isinstance(value, dict):
        raise InvalidFieldError(
            location,
            "must be the JSON text of a serialised event "
            '{"__is_pydantic": true, "value": {...}, "qualified_name": "..."}; '
            f"this is {_json_type(value)}",
        )


def derived_id(*parts: str) -> str:
    """An id (UUID 5) that the same parts always give, so that a repeat finds what it made."""
    return str(uuid.uuid5(_IDS, "\x1f".join(parts)))


def body_hash(*parts: str) -> str:
    """Identifies what a client sent, to tell a repeat from another task with the same id."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\x1f")
    return digest.hexdigest()
