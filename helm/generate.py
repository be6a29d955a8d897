"""Write what the charts take from the code: definitions, rights, dashboard, tables, version.

``python -m helm.generate [FOLDER]``; a test compares the result with what is there.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from helm import dashboard
from llamadeploy_operator import __version__
from llamadeploy_operator.cluster.rbac import KEDA_RULE, LEASE_RULE, POD_MONITOR_RULE, RULES
from llamadeploy_operator.models.crd import CRDS, render

HERE = Path(__file__).parent
HEAD = "# Written by `make charts`; do not edit.\n"
BEGIN, END = "<!-- values: written by `make charts` -->", "<!-- end of values -->"
KEEP = "helm.sh/resource-policy"


def definition(crd: dict[str, Any]) -> str:
    """A template of a CustomResourceDefinition that an uninstall leaves alone: deleting it would
    delete every Deployment of the cluster."""
    text = render(crd).split("\n", 1)[1]
    text = text.replace("{{", '{{ "{{" }}')
    annotations = f"metadata:\n  annotations:\n    {KEEP}: keep\n"
    assert text.count("\nmetadata:\n") == 1, "the definition's own metadata are not found"
    return HEAD + text.replace("metadata:\n", annotations, 1)


def rules() -> str:
    """``files/rules.yaml``: ``served``, in each namespace or in all, and ``lease``.

    The rules of PodMonitors and KEDA are always among them: an operator that finds the API, and may
    not read it, would never become ready, and both can be installed any day.
    """
    found = {
        "served": [rule.manifest() for rule in (*RULES, POD_MONITOR_RULE, KEDA_RULE)],
        "lease": [LEASE_RULE.manifest()],
    }
    return HEAD + yaml.safe_dump(found, sort_keys=False)


def values(text: str) -> Iterator[tuple[str, str, str]]:
    """``(name, default, description)`` of each value that has a comment above it.

    Raises:
        ValueError: a line that is a value, has nothing below it, and is not described.
    """
    path: list[str] = []
    said: list[str] = []
    covered: int | None = None  # below a described map all belongs to it
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            said = []
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        if line.lstrip().startswith("#"):
            said.append(line.lstrip(" #"))
            covered = covered if covered is not None and depth > covered else None
            continue
        if covered is not None and depth > covered:
            continue
        covered = None
        key, _, rest = line.strip().partition(":")
        path[depth:] = [key]
        name, description = ".".join(path), " ".join(said)
        said = []
        if rest.strip():
            if not description:
                raise ValueError(f"values.yaml, line {number}: {name} has no comment above it")
            yield name, rest.strip(), description
        elif description and name != "settings":
            covered = depth
            node: Any = yaml.safe_load(text)
            for part in path:
                node = node[part]
            yield (
                name,
                yaml.safe_dump(node, default_flow_style=True, width=9999).strip(),
                description,
            )


def table(text: str) -> str:
    """The Markdown table of a ``values.yaml``."""
    rows = [
        f"| `{name}` | `{default}` | {description} |" for name, default, description in values(text)
    ]
    return "\n".join(["| Value | Default | |", "|---|---|---|", *rows])


def with_table(readme: str, text: str) -> str:
    """The README with a new table."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(text)}\n{END}{rest.split(END)[1]}"


def with_version(chart: str) -> str:
    """A ``Chart.yaml`` with the release number."""
    chart = re.sub(r"(?m)^version: .*$", f"version: {__version__}", chart)
    return re.sub(r"(?m)^appVersion: .*$", f'appVersion: "{__version__}"', chart)


def main(folder: Path) -> None:
    """Write the files beneath ``folder``, which holds the charts."""
    operator = folder / "llamadeploy-operator"
    definitions = folder / "llamadeploy-crds" / "templates"
    shutil.rmtree(definitions, ignore_errors=True)
    definitions.mkdir()
    for name, build in CRDS.items():
        (definitions / name).write_text(definition(build()))
    (operator / "files").mkdir(exist_ok=True)
    (operator / "files" / "rules.yaml").write_text(rules())
    (operator / "files" / "dashboard.json").write_text(dashboard.text())
    readme = operator / "README.md"
    readme.write_text(with_table(readme.read_text(), (operator / "values.yaml").read_text()))
    for chart in folder.glob("*/Chart.yaml"):
        chart.write_text(with_version(chart.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
