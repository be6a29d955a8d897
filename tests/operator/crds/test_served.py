"""What clients get from the API server: names, columns, descriptions, subresources, examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.api import MERGE_PATCH, TABLE, ApiRefusedError

GROUP = "/apis/llamadeploy.io/v1alpha1"
ROOT = Path(__file__).parents[3]
FILES = [
    *(
        file
        for file in sorted((ROOT / "examples").glob("*/deployment.yaml"))
        if "apiVersion:" in file.read_text()  # the others are deployment files
    ),
    *sorted((ROOT / "tests/operator/desired/inputs").glob("*.yaml")),
]
NOW = "2026-01-01T00:00:00Z"
SERVICE = {"source": {"configMap": {"name": "code"}}, "path": "workflow:w"}


def test_names(api: Any) -> None:
    found = {item["kind"]: item for item in api.request("GET", GROUP)["resources"]
             if "/" not in item["name"]}  # fmt: skip
    assert found["Deployment"]["name"] == "llamadeployments"
    assert found["Deployment"]["shortNames"] == ["ldep"]
    assert found["WorkflowService"]["shortNames"] == ["wfs"]
    assert {item["categories"][0] for item in found.values()} == {"llamadeploy"}


def test_columns(api: Any, collection: Any, build: Any) -> None:
    path = collection("Deployment")
    api.request("POST", path, build("Deployment", {"messageQueue": {"type": "simple"}}))
    condition = {
        "type": "Ready", "status": "False", "reason": "RollingOut", "message": "Soon.",
        "lastTransitionTime": NOW, "observedGeneration": 1,
    }  # fmt: skip
    status = {"status": {"conditions": [condition], "observedGeneration": 1}}
    api.request("PATCH", f"{path}/main/status", status, content_type=MERGE_PATCH)
    table = api.request("GET", path, accept=TABLE)
    columns = {
        column["name"]: cell
        for column, cell in zip(table["columnDefinitions"], table["rows"][0]["cells"], strict=True)
    }
    assert columns.pop("Age")
    assert columns == {
        "Name": "main", "Ready": "False", "Reason": "RollingOut", "Queue": "simple",
        "Default": None, "Version": None, "Endpoint": None, "Message": "Soon.",
    }  # fmt: skip
    wide = {column["name"] for column in table["columnDefinitions"] if column["priority"]}
    assert wide == {"Default", "Version", "Endpoint", "Message"}


def test_scale(api: Any, collection: Any, build: Any) -> None:
    path = collection("WorkflowService")
    api.request("POST", path, build("WorkflowService", {"deploymentRef": {"name": "d"}, **SERVICE}))
    scale = api.request("GET", f"{path}/main/scale")
    assert scale["spec"]["replicas"] == 1, "the default; without one GET /scale fails"
    status = {"status": {"replicas": 1, "selector": "a=b,c=d"}}
    api.request("PATCH", f"{path}/main/status", status, content_type=MERGE_PATCH)
    scale = api.request("GET", f"{path}/main/scale")
    assert scale["status"] == {"replicas": 1, "selector": "a=b,c=d"}
    scale["spec"]["replicas"] = 7
    api.request("PUT", f"{path}/main/scale", scale)
    assert api.request("GET", f"{path}/main")["spec"]["replicas"] == 7
    with pytest.raises(ApiRefusedError, match="less than or equal to 1000"):
        api.request(
            "PATCH", f"{path}/main/scale", {"spec": {"replicas": 2000}}, content_type=MERGE_PATCH
        )


def test_status_is_a_subresource(api: Any, collection: Any, build: Any) -> None:
    """A user's write to the object leaves the status, and the operator's to it leaves the spec."""
    path = collection("Deployment")
    api.request("POST", path, build("Deployment", {}) | {"status": {"topicNamespace": "x"}})
    assert "status" not in api.request("GET", f"{path}/main")
    both = {"status": {"topicNamespace": "a.b"}, "spec": {"suspend": True}}
    found = api.request("PATCH", f"{path}/main/status", both, content_type=MERGE_PATCH)
    assert found["status"] == {"topicNamespace": "a.b"} and found["spec"] == {}
    assert found["metadata"]["generation"] == 1


def test_conditions_are_merged_by_type(api: Any, collection: Any, build: Any) -> None:
    path = collection("Deployment")
    made = api.request("POST", path, build("Deployment", {}))

    def apply(kind: str, manager: str) -> Any:
        condition = {"type": kind, "status": "True", "reason": "R", "message": "",
                     "lastTransitionTime": NOW}  # fmt: skip
        body = {key: made[key] for key in ("apiVersion", "kind")}
        body |= {"metadata": {"name": "main"}, "status": {"conditions": [condition]}}
        return api.apply(f"{path}/main/status", body, manager)

    apply("Ready", "one")
    found = apply("Paused", "two")
    assert [item["type"] for item in found["status"]["conditions"]] == ["Ready", "Paused"]


def test_a_pod_template_is_kept_as_it_is(api: Any, collection: Any, build: Any) -> None:
    template = {"spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "x", "any": [1, {}]}]}}
    spec = {"controlPlane": {"podTemplate": template}}
    found = api.request("POST", collection("Deployment"), build("Deployment", spec))
    assert found["spec"]["controlPlane"]["podTemplate"] == template


def test_descriptions_are_what_kubectl_explain_shows(api: Any) -> None:
    schemas = api.request("GET", f"/openapi/v3{GROUP}")["components"]["schemas"]
    spec = schemas["io.llamadeploy.v1alpha1.Deployment"]["properties"]["spec"]
    assert spec["description"] == "What the Deployment should be."
    service = spec["properties"]["services"]["items"]["properties"]
    assert service["timeoutSeconds"]["description"].startswith("Limit of a task's run")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_manifests_of_ours_are_taken(api: Any, namespace: str, file: Path) -> None:
    plurals = {"Deployment": "llamadeployments", "WorkflowService": "workflowservices"}
    objects = [item for item in yaml.safe_load_all(file.read_text()) if item["kind"] in plurals]
    assert objects
    for item in objects:
        item["metadata"].pop("namespace", None)
        path = f"{GROUP}/namespaces/{namespace}/{plurals[item['kind']]}"
        api.request("POST", path, item, params={"fieldValidation": "Strict", "dryRun": "All"})
