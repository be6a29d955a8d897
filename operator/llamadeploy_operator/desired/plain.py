"""A model of a manifest -> the JSON that its user wrote."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, SecretStr


def plain(value: Any) -> Any:
    """``value`` as JSON: of models the fields that were set, by their aliases, without nulls.
    Confidential values are in the clear."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            fields[name].alias or name: plain(getattr(value, name))
            for name in fields
            if name in value.model_fields_set and getattr(value, name) is not None
        }
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def canonical(value: Any) -> str:
    """JSON that is the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """32 hex digits over :func:`canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def without_none(fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` without those that are ``None``."""
    return {key: value for key, value in fields.items() if value is not None}
