"""What the charts render fits the published schemas of several releases of Kubernetes."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from e2e.cluster.build import SCHEMAS, BuildUnavailableError, api_schema  # noqa: E402

SWITCHES = (
    "metrics.dashboard.enabled=true", "metrics.serviceMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
)  # fmt: skip
Validators = Callable[[dict[str, Any]], Iterator[str]]


@cache
def definitions(path: Path) -> dict[str, Any]:
    """Kubernetes' definitions, strict: a field that is not in them is wrong."""
    found: dict[str, Any] = json.loads(path.read_text())["definitions"]
    for body in found.values():
        if "properties" in body and "additionalProperties" not in body:
            body["additionalProperties"] = False
        for field in body.get("properties", {}).values():
            if field.get("format") == "int-or-string":
                field["type"] = ["integer", "string"]
    for name in ("util.intstr.IntOrString", "api.resource.Quantity"):
        found[f"io.k8s.apimachinery.pkg.{name}"] = {"type": ["integer", "number", "string"]}
    return found


@pytest.fixture(scope="module", params=SCHEMAS)
def problems(request: pytest.FixtureRequest) -> Validators:
    """What is wrong with an object; nothing, when it is of a kind that is not Kubernetes' own."""
    try:
        every = definitions(api_schema(request.param))
    except BuildUnavailableError as error:
        pytest.skip(str(error))
    kinds = {
        (each["group"], each["version"], each["kind"]): name
        for name, body in every.items()
        for each in body.get("x-kubernetes-group-version-kind", ())
    }
    made: dict[str, Any] = {}

    def check(item: dict[str, Any]) -> Iterator[str]:
        group, _, version = item["apiVersion"].rpartition("/")
        name = kinds.get((group, version, item["kind"]))
        if name is None:
            yield f"{item['apiVersion']} {item['kind']} is not of this release"
            return
        if name not in made:
            schema = {"$ref": f"#/definitions/{name}", "definitions": every}
            made[name] = jsonschema_rs.Draft4Validator(schema)
        for error in made[name].iter_errors(item):
            where = "/".join(str(part) for part in error.instance_path)
            yield f"{item['kind']} {item['metadata']['name']}: {where}: {error.message[:200]}"

    return check


@pytest.mark.parametrize("name", ["default", "full", "namespaced", "small"])
def test_objects_fit(problems: Validators, render: Any, values: Any, name: str) -> None:
    given = [part for switch in SWITCHES for part in ("--set", switch)] if name == "full" else []
    objects = render("llamadeploy-operator", "--values", values(name, "team"), *given)
    own = [item for item in objects if not item["apiVersion"].startswith("monitoring.coreos.com/")]
    assert len(objects) - len(own) == (2 if name == "full" else 0)
    assert [found for item in own for found in problems(item)] == []


def test_definitions_fit(problems: Validators, render: Any) -> None:
    assert [found for item in render("llamadeploy-crds") for found in problems(item)] == []


def test_a_mistake_is_seen(problems: Validators, render: Any) -> None:
    (deployment,) = [
        item for item in render("llamadeploy-operator") if item["kind"] == "Deployment"
    ]
    for change in ({"replicas": "two"}, {"replica": 2}):
        wrong = copy.deepcopy(deployment)
        wrong["spec"] |= change
        assert next(problems(wrong)), change
