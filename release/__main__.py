"""``python -m release``: run every check, write the bill of materials, say what is wrong.

The exit code is 1 when a check found something.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from release.bill import bill
from release.checks import ALL, version_of
from release.history import previous_tag

ROOT = Path(__file__).parents[1]
BILL = ROOT / "dist" / "sbom.cdx.json"


def main() -> int:
    """The exit code."""
    version = version_of(ROOT)
    print(f"Release {version}")
    failed = False
    for name, check in ALL.items():
        problems = list(check(ROOT, version))
        failed = failed or bool(problems)
        print(f"  {'FAIL' if problems else 'ok  '}  {name}{_remark(name, version)}")
        for problem in problems:
            print(f"        {problem}")
    BILL.parent.mkdir(exist_ok=True)
    document = bill((ROOT / "requirements/image.lock").read_text(), version)
    BILL.write_text(json.dumps(document, indent=2) + "\n")
    print(f"  wrote {BILL.relative_to(ROOT)}: {len(document['components'])} packages")
    return int(failed)


def _remark(name: str, version: str) -> str:
    if name != "compatibility":
        return ""
    before = previous_tag(ROOT, version)
    return f" with {before}" if before else ": nothing to compare with, there is no tag v* yet"


if __name__ == "__main__":
    sys.exit(main())
