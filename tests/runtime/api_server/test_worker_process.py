"""A worker's output: its last lines, cut, decoded, without secrets."""

from __future__ import annotations

import json

import pytest

from llamadeploy.api_server.backends.local.worker_process import MAX_LINE, TAIL_LINES, OutputTail
from llamadeploy.api_server.backends.local.workers import log_line, redactor


def test_lines_are_put_together_whatever_the_chunks_are() -> None:
    lines: list[str] = []
    tail = OutputTail(str, lines.append)
    for byte in "one\ntwö\r\nthree".encode():
        tail.feed(bytes([byte]))
    assert lines == ["one", "twö"]
    tail.close()
    assert str(tail) == "one\ntwö\nthree"


def test_only_the_last_lines_are_kept() -> None:
    tail = OutputTail(str, lambda line: None)
    tail.feed(b"".join(b"%d\n" % number for number in range(10_000)))
    kept = str(tail).splitlines()
    assert (len(kept), kept[-1]) == (TAIL_LINES, "9999")


def test_a_line_without_an_end_is_bounded() -> None:
    lines: list[str] = []
    tail = OutputTail(str, lines.append)
    for _ in range(100):
        tail.feed(b"x" * MAX_LINE)
    assert len(lines) == 50
    assert max(map(len, lines)) == MAX_LINE


def test_bytes_that_are_no_text_do_no_harm() -> None:
    tail = OutputTail(str, lambda line: None)
    tail.feed(b"\xff\xfe\n")
    assert str(tail) == "\ufffd\ufffd"


def test_secrets_are_blacked_out_longest_first() -> None:
    hide = redactor(("secret-long", "secret"))
    assert hide("a secret-long b secret") == "a *** b ***"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"message": "x"}', {"message": "x", "worker": "d/e-0"}),
        ("plain", {"message": "plain", "worker": "d/e-0"}),
        ("[1]", {"message": "[1]", "worker": "d/e-0"}),
    ],
)
def test_json_logs_name_the_worker(line: str, expected: dict[str, str]) -> None:
    assert json.loads(log_line("d/e-0", line, "json")) == expected
    assert log_line("d/e-0", line, "text") == f"[d/e-0] {line}"
