"""Every promise has a test, and the table in ``docs/reliability.md`` names it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

RULES = {
    1: "An attempt has an identity; what is not of the current one changes nothing",
    2: "Creating a task twice makes one task",
    3: "What was accepted is published, however often a process dies in between",
    4: "Tasks of a session run in order, in parallel or not at all, as the service says",
    5: "Errors are results; only crashes are tried again, a bounded number of times",
    6: "An event for a task is taken once, whenever it comes",
    7: "A task that waits pins no worker, and resumes in another process",
    8: "Waiting is not working time; waits have limits of their own",
    9: "On Redis a worker that was away changes nothing of what others took over",
    10: "A run that takes long, or waits for another service, keeps no message of the queue",
    11: "Code that blocks stops neither leases nor results",
    12: "A stream is whole and in order, also across attempts",
    13: "Cancel wins or loses against the result, never both; clients may go away",
    14: "A call of another service happens once",
    15: "Every replica runs a broadcast's task, and one of them ends it, also when the first dies",
    16: "Nothing from the network is executed or imported",
    17: "What is finished expires, what is alive does not, what expired is not run again",
    18: "Components of neighbouring releases work together",
}
"""The rules that hold on a laptop, by their number in the project's specification."""

DEFECTS = {
    1: "events or session state lost in races",
    2: "a slow reader misses the end of a stream",
    3: "streams slow down with their length",
    4: "seconds of overhead per task",
    5: "questions are lost while replicas come, go and die",
    6: "with two replicas on Redis each task runs twice",
    7: "a task sent while its service starts is lost",
    8: "a task dies with its worker",
    9: "a broker's restart loses what it held",
    10: "a message that cannot be read ends its consumer",
    11: "malformed input takes a slot for ever",
    12: "an unserialisable context hangs the task",
    13: "a failed run poisons its session",
    14: "services of one session clobber each other's context",
    15: "deployments on one broker or store mix",
    18: "`create` returns before the deployment is ready; status blocks",
    19: "files outside of the work directory are touched",
    21: "code from the network is run",
    22: "secrets are in responses",
    23: "a long wait for a person breaks task or stream",
    25: "a failed deploy is not visible",
    28: "a workflow cannot call another service",
    29: "a restart forgets sessions, results and streams",
}
"""What happened in LlamaDeploy 0.8.1 and must not happen here."""

COLLECT = """
import json, sys, pytest
class Marks:
    def pytest_collection_finish(self, session):
        found = [
            (mark.name, number, item.nodeid.partition("[")[0])
            for item in session.items
            for mark in item.iter_markers()
            if mark.name in ("rule", "defect")
            for number in mark.args
        ]
        json.dump(found, open(sys.argv[1], "w"))
options = ["--collect-only", "-q", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*options, *sys.argv[2:]], [Marks()]))
"""

Proofs = dict[tuple[str, int], list[str]]


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Proofs:
    """The marked tests of the whole suite, as pytest collects them."""
    out = tmp_path_factory.mktemp("marks") / "marks.json"
    marks = re.compile(r"mark\.(rule|defect)\(")
    files = [str(f) for f in ROOT.glob("tests/**/*.py") if marks.search(f.read_text())]
    command = [sys.executable, "-c", COLLECT, str(out), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    found: Proofs = defaultdict(list)
    for kind, number, test in json.loads(out.read_text()):
        if test not in found[kind, number]:
            found[kind, number].append(test)
    return found


def test_every_promise_has_a_test(proofs: Proofs) -> None:
    promised = {("rule", n) for n in RULES} | {("defect", n) for n in DEFECTS}
    missing = sorted(promised - {key for key, tests in proofs.items() if tests})
    assert not missing, f"nothing proves {missing}: mark a test with @pytest.mark.rule or .defect"


def test_no_test_proves_what_nobody_promised(proofs: Proofs) -> None:
    promised = {("rule", n) for n in RULES} | {("defect", n) for n in DEFECTS}
    assert sorted(set(proofs) - promised) == [], "add it to RULES or DEFECTS of this file"


def test_the_page_shows_the_table(proofs: Proofs, pytestconfig: pytest.Config) -> None:
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    old, _, tail = rest.partition(END)
    new = table(proofs)
    if pytestconfig.getoption("--write-table", False):
        PAGE.write_text(head + BEGIN + new + END + tail)
        return
    assert old == new, (
        "docs/reliability.md is not up to date: run pytest tests/reliability/test_table.py "
        "--write-table"
    )


def table(proofs: Proofs) -> str:
    lines = []
    for title, kind, promises in (
        ("Rule", "rule", RULES),
        ("Defect of 0.8.1", "defect", DEFECTS),
    ):
        lines += [f"| {title} | | Proved by |", "|---|---|---|"]
        for number, words in promises.items():
            tests = sorted(test.removeprefix("tests/") for test in proofs[kind, number])
            lines.append(f"| {number} | {words} | {'<br>'.join(f'`{t}`' for t in tests)} |")
        lines.append("")
    return "\n".join(lines) + "\n"
