"""The one importer of the driver, which is an extra."""

from __future__ import annotations

from llamadeploy.exceptions import MissingExtraError

try:
    import asyncpg  # type: ignore[import-untyped]
except ImportError:
    raise MissingExtraError("the postgresql state store", "postgresql") from None

__all__ = ["asyncpg"]
