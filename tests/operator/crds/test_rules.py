"""Each rule takes what is right and refuses what is wrong with a cure: API server and laptop."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from e2e.cluster.api import ApiRefusedError
from llamadeploy.spec import SpecError, load_deployment
from llamadeploy_operator.models.rules import RULES

STRICT = {"fieldValidation": "Strict", "dryRun": "All"}
LAPTOP_OBJECTS = [
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "code"},
        "data": {"workflow.py": "w = 1"},
    },
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "stringData": {"k": "redis://h"},
    },
]


@pytest.fixture(scope="module")
def anywhere(api_server: Any) -> Any:
    """Objects that are only tried need no namespace of their own."""
    base = "/apis/llamadeploy.io/v1alpha1/namespaces/default"
    plurals = {"Deployment": "llamadeployments", "WorkflowService": "workflowservices"}
    return lambda kind: f"{base}/{plurals[kind]}"


def test_the_api_server(api_server: Any, anywhere: Any, build: Any, case: Any) -> None:
    path = anywhere(case.kind)
    api_server.api.request("POST", path, build(case.kind, case.good), params=STRICT)
    with pytest.raises(ApiRefusedError) as refused:
        api_server.api.request("POST", path, build(case.kind, case.bad), params=STRICT)
    assert refused.value.status in (400, 422)
    assert case.message in refused.value.message
    causes = refused.value.body.get("details", {}).get("causes", [])
    assert len({cause.get("message") for cause in causes}) <= 2, "one mistake, one or two messages"


def test_a_laptop(build: Any, case: Any) -> None:
    laptop(build, case.kind, case.good)
    with pytest.raises(SpecError):
        laptop(build, case.kind, case.bad)


def laptop(build: Any, kind: str, spec: Any) -> None:
    documents = [*LAPTOP_OBJECTS, build(kind, spec)]
    if kind == "WorkflowService":
        documents.insert(0, build("Deployment", {}))
        documents[-1]["metadata"]["name"] = "service"
    try:
        load_deployment(yaml.safe_dump_all(documents))
    except SpecError as error:
        if "code in a container image cannot" not in str(error):
            raise


def test_what_may_not_change(api: Any, collection: Any, build: Any, transition: Any) -> None:
    path = collection(transition.kind)
    api.request("POST", path, build(transition.kind, transition.good))
    with pytest.raises(ApiRefusedError, match=r"immutable|stays") as refused:
        replace(api, f"{path}/main", build(transition.kind, transition.bad))
    assert refused.value.status == 422
    assert transition.message in refused.value.message
    replace(api, f"{path}/main", build(transition.kind, transition.good_after))


def replace(api: Any, path: str, body: Any) -> None:
    live = api.request("GET", path)
    body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
    api.request("PUT", path, body, params={"fieldValidation": "Strict"})


def test_every_rule_has_a_case(request: pytest.FixtureRequest) -> None:
    """The messages of all rules are begun by the cases' (which a rule may say more precisely)."""
    plugin = next(
        item for item in request.config.pluginmanager.get_plugins()
        if str(getattr(item, "__file__", "")).endswith("operator/crds/conftest.py")
    )  # fmt: skip
    messages = [case.message for case in plugin.RULES + plugin.TRANSITIONS]
    for model, rules in RULES.items():
        for rule in rules:
            known = any(text in rule.message for text in messages)
            assert known or rule.expression, f"{model.__name__}: no case for {rule.message!r}"
