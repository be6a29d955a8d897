from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.logs import configure_logging, current_log_context, log_context, redact


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_lines_carry_the_context() -> None:
    stream = io.StringIO()
    configure_logging("text", "INFO", stream)
    with log_context(task_id="t1", session_id="s1", service=None):
        logging.getLogger("llamadeploy.x").info("hello %s", "you")
    logging.getLogger("llamadeploy.x").debug("not shown")
    logging.getLogger("llamadeploy.x").info("outside")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("INFO     llamadeploy.x: hello you  [task_id=t1 session_id=s1]")
    assert second.endswith("outside")


def test_json_lines_carry_context_and_traceback() -> None:
    stream = io.StringIO()
    configure_logging("json", "DEBUG", stream)
    with log_context(deployment="d"), log_context(task_id="t1"):
        try:
            raise ValueError("cannot reach redis://me:hunter2@host/0\nsecond line")
        except ValueError:
            logging.getLogger("x").exception("it failed")
    line = json.loads(stream.getvalue())
    assert line["message"] == "it failed" and line["level"] == "ERROR" and line["logger"] == "x"
    assert line["deployment"] == "d" and line["task_id"] == "t1"
    assert "hunter2" not in stream.getvalue() and "redis://me:***@host/0" in line["exception"]
    assert line["time"].endswith("+00:00")


def test_context_follows_asyncio_tasks_and_stays_in_them() -> None:
    async def inner() -> str:
        with log_context(service="echo"):
            await asyncio.sleep(0)
            return ",".join(f"{k}={v}" for k, v in current_log_context().items())

    async def main() -> list[str]:
        tasks = []
        for name in ("a", "b"):
            with log_context(task_id=name):
                tasks.append(asyncio.create_task(inner()))
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["task_id=a,service=echo", "task_id=b,service=echo"]
    assert dict(current_log_context()) == {}


def test_uvicorn_goes_through_the_one_handler() -> None:
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())
    stream = io.StringIO()
    configure_logging("json", "INFO", stream)
    logging.getLogger("uvicorn.error").info("started")
    assert json.loads(stream.getvalue())["logger"] == "uvicorn.error"
    assert logging.getLogger("uvicorn").handlers == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://guest:hun@ter2@host/v", "amqp://guest:***@host/v"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("https://hunter2@github.com/x.git", "https://***@github.com/x.git"),
        ("ssh://git@github.com/x.git", "ssh://git@github.com/x.git"),
        ("GET /x?a=1&access_token=hunter2&b=2", "GET /x?a=1&access_token=***&b=2"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: Bearer ***"),
        ("http://127.0.0.1:8000/x@y", "http://127.0.0.1:8000/x@y"),
        ("postgresql://a:hunter2@h/d, redis://b:hunter2@h", "postgresql://a:***@h/d, redis://b:***@h"),
    ],
)  # fmt: skip
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_bad_format_and_level() -> None:
    with pytest.raises(ConfigurationError, match="text or json"):
        configure_logging("xml")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="LOUD"):
        configure_logging("text", "LOUD")
