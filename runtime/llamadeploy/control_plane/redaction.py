"""Settings as they may be shown to whoever asks."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretBytes, SecretStr

_SECRET = re.compile(r"passw|secret|token|credential|access_key|api_?key|client_kwargs", re.I)
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)


def public_settings(settings: BaseModel) -> dict[str, Any]:
    """The fields of ``settings``: secrets are ``None``, URLs have no user and password."""
    fields = type(settings).model_fields
    return {name: _public(name, getattr(settings, name)) for name in fields}


def _public(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr | SecretBytes) or _SECRET.search(name):
        return None
    if isinstance(value, str) and _URL.match(value):
        return strip_credentials(value)
    if isinstance(value, dict):
        return {key: _public(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public(name, item) for item in value]
    return value


def strip_credentials(url: str) -> str:
    """The URL without user, password and query (which may hold either)."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
