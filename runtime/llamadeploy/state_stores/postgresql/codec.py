"""Requests and replies as JSON, and the one character that PostgreSQL does not take.

A text in PostgreSQL has no U+0000. It is written as U+001A ``0``, and U+001A itself as U+001A
``1``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from llamadeploy.exceptions import ConfigurationError

T = TypeVar("T")

_ESCAPE = "\x1a"


def encode(request: Any) -> bytes:
    """JSON for a ``jsonb`` argument.

    Raises:
        ConfigurationError: a text is not valid Unicode.
    """
    try:
        raw = msgspec.json.encode(request)
        if b"\\u0000" in raw or b"\\u001a" in raw:
            raw = msgspec.json.encode(_map(msgspec.json.decode(raw), _hide))
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"a text cannot be stored because it is not valid Unicode ({error.reason} at "
            f"character {error.start})"
        ) from error
    return raw


def decoder(type_: Any) -> Callable[[bytes], Any]:
    """A function that reads replies of a type."""
    read = msgspec.json.Decoder(type_).decode

    def decode(raw: bytes) -> Any:
        if b"\\u001a" not in raw:
            return read(raw)
        return read(msgspec.json.encode(_map(msgspec.json.decode(raw), shown)))

    return decode


def shown(text: str) -> str:
    """A text of the database as it was before."""
    if _ESCAPE not in text:
        return text
    return text.replace(f"{_ESCAPE}0", "\x00").replace(f"{_ESCAPE}1", _ESCAPE)


def _hide(text: str) -> str:
    return text.replace(_ESCAPE, f"{_ESCAPE}1").replace("\x00", f"{_ESCAPE}0")


def _map(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map(item, change) for key, item in value.items()}
    return value
