"""External programs: what is kept of their output, and that none outlives its time."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llamadeploy import commands
from llamadeploy.commands import (
    Cancellation,
    CommandCancelledError,
    CommandTimeoutError,
    run_command,
    start_command,
)


def run(folder: Path, code: str, **options: Any) -> commands.CommandOutput:
    """Run Python code as a program."""
    return run_command(
        [sys.executable, "-c", code],
        **{"env": {}, "cwd": folder, "timeout": 30, "cancellation": Cancellation(), **options},
    )


def ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie that only its parent's exit will collect."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True


def wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not ended(pid):
        assert time.monotonic() < deadline, "the process still runs"
        time.sleep(0.02)


SLEEPER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open("child", "w").write(str(child.pid))
open("ready", "w").close()
time.sleep(60)
"""


def child_of(folder: Path) -> int:
    deadline = time.monotonic() + 10
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline, "the program did not start"
        time.sleep(0.02)
    return int((folder / "child").read_text())


def test_output_and_errors_are_told_apart(tmp_path: Path) -> None:
    output = run(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (output.code, output.stdout, output.errors) == (3, b"out\n", ("err",))


def test_only_the_last_lines_of_errors_are_kept_and_they_are_plain(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for n in range(100): print(n, file=sys.stderr)\n"
        "print('10%\\r50%\\r\\x1b[31mdone\\x07', file=sys.stderr)\n"
    )
    errors = run(tmp_path, code).errors
    assert len(errors) == commands.TAIL_LINES
    assert errors[-2:] == ("99", "[31mdone")


def test_too_much_output_is_cut_and_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_OUTPUT", 10)
    output = run(tmp_path, "print('x' * 1_000_000)")
    assert (output.code, output.stdout) == (0, b"x" * 10)


def test_a_time_limit_ends_the_program_and_what_it_started(tmp_path: Path) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            run(tmp_path, SLEEPER, timeout=3)
        except CommandTimeoutError as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    child = child_of(tmp_path)
    thread.join(20)
    assert len(problems) == 1
    wait_until_ended(child)


def test_cancelling_ends_the_program_and_what_it_started(tmp_path: Path) -> None:
    cancellation = Cancellation()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            run(tmp_path, SLEEPER, cancellation=cancellation)
        except CommandCancelledError as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    child = child_of(tmp_path)
    cancellation.cancel()
    thread.join(10)
    assert len(problems) == 1
    wait_until_ended(child)
    with pytest.raises(CommandCancelledError):
        run(tmp_path, "open('started', 'w')", cancellation=cancellation)
    assert not (tmp_path / "started").exists()


def test_leaving_early_ends_the_program(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLEEPER]
    with (
        pytest.raises(ZeroDivisionError),
        start_command(command, env={}, cwd=tmp_path, timeout=30, cancellation=Cancellation()),
    ):
        child = child_of(tmp_path)
        raise ZeroDivisionError
    wait_until_ended(child)


def test_lines_come_as_they_are_written(tmp_path: Path) -> None:
    lines: list[str] = []
    seen = threading.Event()

    def tell(line: str) -> None:
        lines.append(line)
        seen.set()

    code = "import pathlib, time\nprint('first', flush=True)\n"
    code += "while not pathlib.Path('go').exists(): time.sleep(0.02)\nprint('second')"
    with start_command(
        [sys.executable, "-c", code], env={}, cwd=tmp_path, timeout=30,
        cancellation=Cancellation(), on_line=tell, merge=True,
    ) as command:  # fmt: skip
        assert seen.wait(10)
        assert lines == ["first"]
        (tmp_path / "go").touch()
        assert command.finish() == (0, ("first", "second"))
