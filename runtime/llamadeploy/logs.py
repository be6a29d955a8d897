"""Logs for people (text) or machines (JSON lines), with the ids of what is being worked on.

Every line passes :func:`redact`, tracebacks included: connection URLs with passwords end up in
the exceptions of many client libraries.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

from llamadeploy.exceptions import ConfigurationError

_EMPTY: Mapping[str, str] = {}
_context: ContextVar[Mapping[str, str]] = ContextVar("llamadeploy_log_context", default=_EMPTY)

_REDACTIONS = (
    # scheme://user:password@ -- up to the last @ before a slash, as passwords may contain an @.
    (re.compile(r"(://[^\s/@:'\"]*:)[^\s/'\"]*@"), r"\1***@"),
    # https://token@host, the form in which git hosts take tokens.
    (re.compile(r"(https?://)[^\s/@:'\"]+@"), r"\1***@"),
    (re.compile(r"(?i)([?&](?:\w*(?:password|passwd|token|secret|key|signature))=)[^\s&'\"]+"),
     r"\1***"),
    (re.compile(r"(?i)(\b(?:bearer|basic) )[\w.~+/=-]{8,}"), r"\1***"),
)  # fmt: skip


def redact(text: str) -> str:
    """``text`` with passwords and tokens of URLs and Authorization headers as ``***``."""
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def log_context(**fields: str | None) -> Iterator[None]:
    """Add fields (``task_id``, ``session_id``, ``deployment``, ``service``) to the log lines of
    this context and of the asyncio tasks started in it. ``None`` values are left out."""
    added = {name: value for name, value in fields.items() if value is not None}
    token = _context.set({**_context.get(), **added})
    try:
        yield
    finally:
        _context.reset(token)


def current_log_context() -> Mapping[str, str]:
    """The fields that hold now."""
    return _context.get()


def configure_logging(
    format: Literal["text", "json"] = "text",
    level: str | int = "INFO",
    stream: TextIO | None = None,
) -> None:
    """Send every logger of the process through one handler on ``stream`` (standard error).

    uvicorn's loggers lose handlers of their own. Calling it again replaces the configuration.

    Raises:
        ConfigurationError: unknown format or level.
    """
    if format not in _FORMATTERS:
        raise ConfigurationError(f"log format {format!r} is unknown: use text or json")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_capture_context)
    handler.setFormatter(_FORMATTERS[format]())
    root = logging.getLogger()
    try:
        root.setLevel(level.upper() if isinstance(level, str) else level)
    except ValueError:
        raise ConfigurationError(
            f"log level {level!r} is unknown: use DEBUG, INFO, WARNING, ERROR or CRITICAL"
        ) from None
    root.handlers[:] = [handler]
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _capture_context(record: logging.LogRecord) -> bool:
    record.llamadeploy_context = _context.get()
    return True


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:00:00.000 INFO     logger: message  [task_id=... session_id=...]``."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        fields = " ".join(f"{name}={value}" for name, value in _fields_of(record).items())
        return f"{line}  [{fields}]" if fields else line

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``, the
    context's fields, and ``exception`` with the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **_fields_of(record),
        }
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = redact(self.formatStack(record.stack_info))
        return json.dumps(line, ensure_ascii=False)


def _fields_of(record: logging.LogRecord) -> Mapping[str, str]:
    fields: Mapping[str, str] = getattr(record, "llamadeploy_context", _EMPTY)
    return fields


_FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}
