"""The definitions: written from the models, bounded everywhere, described everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamadeploy_operator.models.crd import CRDS, render
from llamadeploy_operator.models.status import DeploymentStatus, WorkflowServiceStatus
from llamadeploy_operator.models.structural import structural
from llamadeploy_operator.reasons import Condition

ROOT = Path(__file__).parents[3]
MAX_BYTES = 200_000
"""A client-side apply keeps the object in an annotation of at most 256 KiB."""


@pytest.fixture(params=sorted(CRDS))
def crd(request: pytest.FixtureRequest) -> Any:
    return CRDS[request.param]()


def walk(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field beneath ``spec`` and ``status``."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from walk(field, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def fields(crd: Any) -> list[tuple[str, Any]]:
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found = list(walk(root))
    return [(path, field) for path, field in found if path not in ("", ".metadata")]


@pytest.mark.parametrize("name", sorted(CRDS))
def test_the_files_are_up_to_date(name: str) -> None:
    text = (ROOT / "crds" / name).read_text()
    assert text == render(CRDS[name]()), "run: make crds"
    assert len(text) < MAX_BYTES
    assert {path.name for path in (ROOT / "crds").glob("*.yaml")} == set(CRDS)


def test_no_default_beneath_a_list(crd: Any) -> None:
    with_default = [path for path, field in fields(crd) if "default" in field]
    assert with_default == ([".spec.replicas"] if "scale" in subresources(crd) else [])


def subresources(crd: Any) -> Any:
    return crd["spec"]["versions"][0]["subresources"]


def test_everything_is_bounded(crd: Any) -> None:
    for path, field in fields(crd):
        kind = field.get("type")
        fixed = "enum" in field or field.get("format") == "date-time"
        if kind == "string" and not fixed:
            assert "maxLength" in field, path
        elif kind == "array":
            assert "maxItems" in field, path
        elif kind == "integer":
            assert "maximum" in field or field["format"] == "int64", path
        elif kind == "object" and "additionalProperties" in field:
            assert "maxProperties" in field, path


def test_everything_is_described(crd: Any) -> None:
    for path, field in fields(crd):
        if path.endswith(("[]", "{}")) and field.get("type") != "object":
            continue  # a list of texts is described as a list
        text = field.get("description", "")
        assert text.endswith(".") and len(text) > 8, f"{path}: {text!r}"


def test_every_list_says_how_it_is_merged(crd: Any) -> None:
    for path, field in fields(crd):
        if field.get("type") == "array":
            kind = field["x-kubernetes-list-type"]
            # As in a HorizontalPodAutoscaler: nothing in their items names one of them.
            nameless = path.endswith((".policies", ".schedules"))
            objects = field["items"]["type"] == "object" and not nameless
            assert kind == ("map" if objects else "atomic"), path
            for key in field.get("x-kubernetes-list-map-keys", []):
                assert key in field["items"]["required"], path


def test_only_the_pod_template_and_nothing_else_is_free(crd: Any) -> None:
    for path, field in fields(crd):
        free = field.get("x-kubernetes-preserve-unknown-fields", False)
        assert free == path.endswith(".podTemplate"), path
        assert field.get("additionalProperties") is not True, path


def test_autoscaling_is_the_same_inline_and_on_its_own() -> None:
    inline, own = (
        {path.split(".autoscaling")[-1]: field for path, field in fields(CRDS[name]())
         if ".spec." in path and ".autoscaling" in path}
        for name in ("llamadeployments.yaml", "workflowservices.yaml")
    )  # fmt: skip
    assert inline == own
    assert ".behavior.scaleDown.stabilizationWindowSeconds" in own


def test_no_rule_looks_at_the_replicas_of_a_workflow_service() -> None:
    crd = CRDS["workflowservices.yaml"]()
    for path, field in fields(crd):
        for rule in field.get("x-kubernetes-validations", []):
            assert "replicas" not in rule["rule"], path


def test_every_message_says_what_to_do(crd: Any) -> None:
    verbs = ("write ", "remove ", "change ", "leave out ", "give ", "delete ")
    for _, field in fields(crd):
        for rule in field.get("x-kubernetes-validations", []):
            assert any(verb in rule["message"] for verb in verbs), rule["message"]


def test_conditions_are_those_of_the_operator() -> None:
    text = structural(DeploymentStatus)["properties"]["conditions"]["items"]["properties"]["type"]
    assert all(condition.value in text["description"] for condition in Condition)


@pytest.mark.parametrize("model", [DeploymentStatus, WorkflowServiceStatus])
def test_status_fields_are_optional_at_the_top(model: Any) -> None:
    assert "required" not in structural(model)


def test_written_yaml_is_plain() -> None:
    for name in CRDS:
        text = (ROOT / "crds" / name).read_text()
        assert "&id" not in text and "!!" not in text
        assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
