"""llamactl against a real server: what is printed, and with which exit code it ends."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from rich.console import Console

from llamadeploy.cli.output import age, print_records
from llamadeploy.cli.progress import _Live, progress_lines

Ctl = Callable[..., Result]

D = ("-d", "shop")


def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def start(ctl: Ctl, *args: str) -> str:
    return ctl("run", *D, "--no-wait", *args).stdout.strip()


# -- run ---------------------------------------------------------------------------------------


def test_run_prints_the_result(ctl: Ctl) -> None:
    assert ctl("run", *D, "-a", "text", "two words").stdout == "echo: 'two words'\n"


def test_arguments_may_be_json_and_come_from_a_file(ctl: Ctl, tmp_path: Path) -> None:
    assert ctl("run", *D, "-j", "text", '{"a": [1]}').stdout == "echo: {'a': [1]}\n"
    file = tmp_path / "input.json"
    file.write_text('{"text": "filed"}')
    assert ctl("run", *D, "--input", str(file)).stdout == "echo: 'filed'\n"
    assert ctl("run", *D, "--input", str(file), "-j", "text", "1").stdout == "echo: 1\n"
    assert ctl("run", *D, "--input", "-", input='{"text": null}').stdout == "echo: None\n"


def test_arguments_that_are_wrong_are_named(ctl: Ctl, tmp_path: Path) -> None:
    assert "text: 'two' is not JSON" in ctl("run", *D, "-j", "text", "two", code=2).output
    assert "must hold a JSON object" in ctl("run", *D, "--input", "-", input="[]", code=1).output
    assert "is not JSON" in ctl("run", *D, "--input", "-", input="{", code=1).output


def test_a_task_that_fails_has_an_exit_code_of_its_own(ctl: Ctl) -> None:
    assert ctl("run", *D, "-s", "fail", code=3).stdout == "it went wrong\n"
    done = json.loads(ctl("run", *D, "-s", "fail", "-o", "json", code=3).stdout)
    assert (done["state"], done["result"]) == ("failed", "it went wrong")
    assert "Service 'none' not found" in ctl("run", *D, "-s", "none", code=1).stderr


def test_run_with_its_events(ctl: Ctl) -> None:
    lines = ctl("run", *D, "-s", "count", "--stream").stdout.splitlines()
    assert lines[:3] == [f'{n + 1}  workflow.Progress  {{"n": {n}}}' for n in range(3)]
    assert lines[-1] == "counted"
    as_json = ctl("run", *D, "-s", "count", "--stream", "-o", "json").stdout.splitlines()
    assert json.loads(as_json[0])["data"] == {"n": 0}
    task = json.loads(as_json[-1])["task_id"]
    # As without a stream: a session of the task's own went with its success.
    assert ctl("tasks", *D, task, code=1).stderr == "Error: Task not found\n"
    ctl("run", *D, "--stream", "--no-wait", code=2)


def test_an_idempotency_key_makes_one_task(ctl: Ctl) -> None:
    key = ("--idempotency-key", "cli-1", "-o", "json")
    first, second = (json.loads(ctl("run", *D, *key).stdout) for _ in range(2))
    assert first == second


# -- tasks, events, cancel ---------------------------------------------------------------------


def test_tasks_are_listed_and_filtered(ctl: Ctl) -> None:
    created = ctl("sessions", "create", *D).stdout
    session = re.match(r"session_id='([^']+)'", created)[1]  # type: ignore[index]
    asked = start(ctl, "-s", "ask", "-i", session)
    echoed = start(ctl, "-i", session)
    until(lambda: "waiting" in ctl("tasks", *D, "-i", session).stdout, "it waits")
    until(lambda: "succeeded" in ctl("tasks", *D, "-i", session).stdout, "the other is done")
    header, *rows = ctl("tasks", *D, "-i", session).stdout.splitlines()
    assert header.split()[:4] == ["TASK", "SERVICE", "STATE", "AGE"]
    assert [row.split()[:3] for row in rows] == [
        [echoed, "echo", "succeeded"], [asked, "ask", "waiting"],
    ]  # fmt: skip
    assert re.fullmatch(r"\d+s", rows[0].split()[3])

    def ids(*args: str) -> list[str]:
        found = yaml.safe_load(ctl("tasks", *D, "-i", session, "-o", "yaml", *args).stdout)
        return [each["task_id"] for each in found]

    assert ids("--state", "waiting", "--state", "failed") == [asked]
    assert ids("-s", "echo") == [echoed]
    assert ids("--limit", "1") == [echoed]
    assert ids("--before", echoed) == [asked]
    assert ids("-s", "count") == []
    assert ctl("tasks", *D, "-i", session, "-s", "count").stderr == "No tasks found.\n"
    ctl("tasks", *D, "--state", "lost", code=2)

    shown = json.loads(ctl("tasks", *D, asked, "-o", "json").stdout)
    assert (shown["state"], shown["service_id"]) == ("waiting", "ask")
    assert re.search(r"^state +waiting$", ctl("tasks", *D, asked).stdout, re.MULTILINE)

    assert ctl("cancel", *D, asked, echoed).stdout == (
        f"Cancelled: {asked}\nHad succeeded already: {echoed}\n"
    )
    header, *rows = ctl("sessions", "list", *D).stdout.splitlines()
    assert [session, "2"] in [row.split() for row in rows]
    assert ctl("sessions", "delete", *D, session).stdout == f"Deleted: {session}\n"
    assert session not in ctl("sessions", "list", *D).output


def test_events_are_printed_and_followed(ctl: Ctl, cli_server: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task = start(ctl, "-s", "count", "-a", "gate", str(gate))
    until(lambda: len(ctl("events", *D, task).stdout.splitlines()) == 3, "its events are there")
    assert ctl("events", *D, "--after", "2", task).stdout == '3  workflow.Progress  {"n": 2}\n'
    with llamactl(cli_server, "events", *D, "--follow", "-o", "json", task) as following:
        lines = [json.loads(following.stdout.readline()) for _ in range(3)]  # type: ignore[union-attr]
        assert [line["seq"] for line in lines] == [1, 2, 3]
        assert following.poll() is None
        gate.touch()
        assert following.wait(20) == 0
    assert "Task not found" in ctl("events", *D, "nothing", code=1).stderr


def test_a_follower_is_interrupted_quietly(cli_server: Any, ctl: Ctl, tmp_path: Path) -> None:
    task = start(ctl, "-s", "count", "-a", "gate", str(tmp_path / "never"))
    with llamactl(cli_server, "events", *D, "-f", task) as following:
        following.stdout.readline()  # type: ignore[union-attr]
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
        assert following.stderr.read() == ""  # type: ignore[union-attr]
    assert ctl("cancel", *D, task).stdout == f"Cancelled: {task}\n"


def llamactl(server: Any, *args: str) -> subprocess.Popen[str]:
    """The command as a process, to be watched while it runs."""
    code = "from llamadeploy.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "-s", server.url, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell starts what runs in its background with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


# -- logs --------------------------------------------------------------------------------------


def test_logs_are_printed_and_followed(ctl: Ctl, cli_server: Any) -> None:
    ctl("run", *D, "-a", "text", "logged once")
    line = until(
        lambda: [x for x in ctl("logs", *D, "-s", "echo").stdout.splitlines() if "once" in x],
        "the line is there",
    )[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.+-]+ echo-0 \| echoing logged once", line)
    assert "logged once" not in ctl("logs", *D, "-s", "ask").stdout
    with llamactl(cli_server, "logs", *D, "-f", "-n", "1", "-s", "echo", "-o", "json") as following:
        following.stdout.readline()  # type: ignore[union-attr]
        ctl("run", *D, "-a", "text", "followed")
        read = json.loads(following.stdout.readline())  # type: ignore[union-attr]
        assert (read["replica"], read["text"]) == ("echo-0", "echoing followed")
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
    assert "Service not found" in ctl("logs", *D, "-s", "none", code=1).stderr


# -- services ----------------------------------------------------------------------------------


def test_services_are_listed_stopped_restarted_and_scaled(ctl: Ctl) -> None:
    header, *rows = ctl("services", "list", *D).stdout.splitlines()
    assert header.split()[:3] == ["SERVICE", "STATE", "READY"]
    assert rows[0].split()[:4] == ["echo", "*", "ready", "1/1"]
    assert ctl("services", "scale", *D, "fail", "2").stdout == "Scaled: fail to 2\n"
    assert ctl("services", "stop", *D, "fail").stdout == "Stopped: fail\n"

    def fail() -> Any:
        found = json.loads(ctl("services", "list", *D, "-o", "json").stdout)
        return next(each for each in found if each["service_name"] == "fail")

    assert (fail()["state"], fail()["replicas"], fail()["ready_replicas"]) == ("stopped", 2, 0)
    assert ctl("services", "restart", *D, "fail").stdout == "Restarted: fail\n"
    assert fail()["ready_replicas"] == 2
    ctl("services", "scale", *D, "fail", "1")
    assert ctl("services", "stop", *D, "none", code=1).stderr == "Error: Service not found\n"
    ctl("services", "scale", *D, "fail", "many", code=2)


# -- dead letters ------------------------------------------------------------------------------


def test_dead_letters_are_listed_and_dropped(ctl: Ctl, cli_server: Any) -> None:
    import urllib.request

    assert ctl("dead-letters", "list", *D).stderr == "There are no dead letters.\n"
    status = json.loads(ctl("status", "-o", "json").stdout)["details"]["shop"]
    queue, topic = status["message_queue"]["url"], f"{status['topic_namespace']}.echo"
    poison = json.dumps({"action": "new_task", "data": {}, "type": "echo"}).encode()
    request = urllib.request.Request(
        f"{queue}/messages/{topic}", poison, {"Content-Type": "application/json"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=10).close()

    def letters() -> Any:
        return json.loads(ctl("dead-letters", "list", *D, "-o", "json").stdout)

    (letter,) = until(letters, "the poison is a dead letter")
    number = str(letter["letter_id"])
    assert "data.task_id" in ctl("dead-letters", "list", *D).stdout
    retried = ctl("dead-letters", "retry", *D, number, code=1)
    assert "is gone: it cannot be retried" in retried.stderr
    assert ctl("dead-letters", "delete", *D, number).stdout == f"Deleted: {number}\n"
    assert letters() == []
    assert "not found" in ctl("dead-letters", "delete", *D, number, code=1).stderr


# -- deploy, delete, status --------------------------------------------------------------------


def test_deploy_tells_how_services_come_up(cli_server: Any, ctl: Ctl) -> None:
    """Where no terminal is: a line for each change, on standard error."""
    lines = cli_server.deploy_output.splitlines()
    assert "echo: starting, 0/1 ready" in lines
    assert len(lines) == len(set(lines))
    reload = ctl("deploy", "--reload", str(cli_server.folder / "shop.yaml"))
    assert reload.stdout == "Deployment successful: shop\n"
    assert "ask: starting, 0/1 ready" in reload.stderr.splitlines()
    assert "exists already" in ctl("deploy", str(cli_server.folder / "shop.yaml"), code=1).stderr


def test_progress_on_a_terminal_is_redrawn() -> None:
    details = {
        "state": "starting",
        "progress": "echo: installing httpx",
        "services": {
            "echo": {"state": "starting", "ready_replicas": 0, "replicas": 2, "last_error": None},
            "longer": {
                "state": "backoff", "ready_replicas": 0, "replicas": 1,
                "last_error": "Traceback\nValueError: \x1b[31mno",
            },
        },
    }  # fmt: skip
    lines = progress_lines(details)
    assert lines == {
        "": "echo: installing httpx",
        "echo": "starting, 0/2 ready",
        "longer": "backoff, 0/1 ready: ValueError: ?[31mno",
    }
    screen = io.StringIO()
    display = _Live(Console(file=screen, force_terminal=True, width=80))
    with display.shown():
        display.update(lines)
    assert "  longer  backoff, 0/1 ready" in screen.getvalue()
    assert progress_lines({"state": "ready", "services": details["services"]}) == {}


def test_delete_asks_at_a_terminal(ctl: Ctl, cli_server: Any) -> None:
    file = cli_server.file("temporary")
    ctl("deploy", str(file))
    ctl("run", "-d", "temporary", "-s", "ask", "--no-wait")
    assert "add --yes to delete" in ctl("delete", "temporary", code=2).output
    assert "- temporary" in ctl("status").stdout
    refused = at_a_terminal(cli_server, "n\n", "delete", "temporary")
    assert "1 tasks are unfinished." in refused
    assert "Aborted!" in refused
    assert "- temporary" in ctl("status").stdout
    done = ctl("delete", "--yes", "--drain", "0", "temporary")
    assert done.stdout == "Deployment deleted: temporary\n"
    assert "temporary" not in ctl("status").stdout
    assert ctl("delete", "--yes", "temporary", code=1).stderr == "Error: Deployment not found\n"


def at_a_terminal(server: Any, answer: str, *args: str) -> str:
    """What a command prints at a real terminal where somebody types ``answer``."""
    ours, theirs = pty.openpty()
    code = "from llamadeploy.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "-s", server.url, *args],
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, answer.encode())
    output = b""
    try:
        while chunk := os.read(ours, 4096):
            output += chunk
    except OSError:
        pass  # the terminal's other end is closed
    os.close(ours)
    process.wait(20)
    return output.decode()


# -- output ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (200_000, "2d")],
)
def test_age(seconds: int, shown: str) -> None:
    assert age(1000.0, now=1000.0 + seconds) == shown
    assert age(None) == "-"


def test_a_table_obeys_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"a": "\x1b[2Jwiped", "b": "first\nlast", "c": None, "d": ""}
    columns = {"A": "a", "B": "b", "C": "c", "D": "d"}
    print_records([record], columns, "table", "")
    assert capsys.readouterr().out == "A          B     C  D\n?[2Jwiped  last  -  -\n"


def test_profiles_are_listed_in_every_format(ctl: Ctl) -> None:
    names = {"default", "other"}
    for output, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        found = load(ctl("config", "get-profiles", "-o", output).stdout)
        assert {each["name"] for each in found} == names
    assert ctl("config", "get-profiles").stdout.splitlines()[0].split()[:2] == [
        "CURRENT",
        "PROFILE",
    ]
