"""What is loaded is frozen, and thresholds that somebody chose are kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc
{before}
from llamadeploy.collector import settle_collector
settle_collector()
print(gc.get_freeze_count() > 1000, *gc.get_threshold())
"""


@pytest.mark.parametrize(
    ("before", "seen"),
    [
        ("", "True 10000 20 20"),
        ("gc.set_threshold(5000, 3, 3)", "True 5000 3 3"),
        ("gc.set_threshold(0)", "True 0"),
    ],
)
def test_settling_the_collector(before: str, seen: str) -> None:
    program = PROGRAM.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(seen)
