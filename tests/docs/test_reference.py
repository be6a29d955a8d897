"""Reference pages have what the code has: fields, settings, routes, reasons, queues and stores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from docs.site.settings import options
from llamadeploy.delivery import POLICIES, ReplicaLimit
from llamadeploy.message_queues.registry import QUEUE_TYPES
from llamadeploy.settings import PodSettings, variable
from llamadeploy.state_stores.registry import ADAPTERS, ALIASES, NOT_YET, is_shared
from llamadeploy_operator.models.crd import CRDS
from llamadeploy_operator.reasons import Condition, Reason

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the tables whose first column has this name."""
    found, inside = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[0] == head:
            inside = True
        elif inside and not set(cells[0]) <= {"-"}:
            found.append(cells)
    return found


def codes(cells: list[list[str]]) -> set[str]:
    """What stands in backticks in the first column."""
    return {code for row in cells for code in re.findall(r"`([^`]+)`", row[0])}


def leaves(schema: dict[str, Any], path: str) -> set[str]:
    """Paths that have nothing below them."""
    below = {**(schema.get("properties") or {})}
    found = {p for name, child in below.items() for p in leaves(child, f"{path}.{name}")}
    items = schema.get("items") or {}
    if items.get("properties"):
        found |= leaves(items, f"{path}[]")
    return found or {path}


def test_every_field_of_the_definitions_is_there() -> None:
    named = codes(rows((DOCS / "reference" / "custom-resources.md").read_text(), "field"))
    for path in (ROOT / "crds" / name for name in CRDS):
        schema = yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]
        properties = schema["openAPIV3Schema"]["properties"]
        for part in ("spec", "status"):
            missing = leaves(properties[part], part) - named
            assert not missing, (path.name, missing)


def test_every_setting_is_there() -> None:
    text = (DOCS / "reference" / "settings.md").read_text()
    flags = codes(rows(text, "flag"))
    assert {option.opts[0] for option in options()} == {flag.split("/")[0] for flag in flags}
    assert {variable(name) for name in PodSettings.model_fields} <= codes(rows(text, "variable"))


def test_every_route_is_there() -> None:
    named = codes(rows((DOCS / "reference" / "routes.md").read_text(), "route"))
    for name in ("apiserver.json", "control_plane.json"):
        paths = json.loads((DOCS / name).read_text())["paths"]
        routes = {f"{method.upper()} {path}" for path, found in paths.items() for method in found}
        assert routes <= named


def test_every_condition_and_reason_has_its_entry() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    assert codes(rows(text, "condition")) == set(Condition)
    entries = rows(text, "reason")
    assert codes(entries) == set(Reason)
    assert len(entries) == len(Reason), "a reason has two entries"
    assert all(all(row) for row in entries), "an empty cell helps nobody"


def test_the_table_of_queues_is_that_of_the_delivery_policy() -> None:
    text = (DOCS / "queues-and-stores.md").read_text()
    found = {row[0].split("(")[0].replace("`", "").strip(" "): row for row in rows(text, "queue")}
    shown = [each for each in POLICIES if not QUEUE_TYPES[each.queue_type].unavailable]
    assert len(found) == len(shown)
    for policy in shown:
        mode = policy.exclusive_mode
        name = policy.queue_type + ("" if mode is None else f", exclusiveMode: {str(mode).lower()}")
        _, who, durable, replicas, zero, _ = found[name]
        assert ("compete" in who, "broadcast" in who) == (
            policy.delivery == "competing", policy.delivery == "broadcast"
        )  # fmt: skip
        assert durable == ("yes" if policy.durable_backlog else "no")
        assert zero == ("yes" if policy.scale_to_zero else "no")
        assert replicas.startswith("1,") == (policy.limit is ReplicaLimit.ONE_UNLESS_BROADCAST)
    unavailable = {name for name, each in QUEUE_TYPES.items() if each.unavailable} - {"solace"}
    assert all(f"`{name}`" in text for name in unavailable)


def test_the_table_of_stores_is_the_registry() -> None:
    text = (DOCS / "queues-and-stores.md").read_text()
    found = {row[0].strip("`"): row for row in rows(text, "store")}
    others = {"rediss", "unix"} | set(ALIASES)
    assert set(found) == set(ADAPTERS) - others
    for name, row in found.items():
        assert row[3] == ("yes" if is_shared(f"{name}://") else "no")
    assert all(f"`{name}` is read in files" in text for name in NOT_YET)
