"""Every test that docs/security.md names is there, and its bounds are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from llamadeploy.control_plane.routes.capacity import MAX_STREAMS, MAX_WAITS
from llamadeploy.control_plane.routes.limits import MAX_BODY_BYTES
from llamadeploy.http.serving import MAX_CONNECTIONS

ROOT = Path(__file__).parents[3]


def test_the_named_tests_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    rows = text[text.index("## Threats") : text.index("## Left to you")]
    last, found = "", 0
    for path, name in re.findall(r"`((?:[\w/]+\.py)?)(?:::([\w*]+))?`", rows):
        last = path or last
        base = ROOT if last.startswith("tests/") else ROOT / "tests" / "runtime"
        source = (base / last).read_text()
        if name:
            pattern = rf"def {name.replace('*', '[a-z_]*')}\("
            assert re.search(pattern, source), f"{last}::{name}"
        found += 1
    assert found > 25


def test_the_bounds_are_the_codes() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    for number in (MAX_STREAMS, MAX_WAITS, MAX_CONNECTIONS):
        assert f"{number:,}" in text
    assert f"body | {MAX_BODY_BYTES // 2**20} MiB" in text
