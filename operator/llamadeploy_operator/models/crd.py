"""The CustomResourceDefinitions: ``python -m llamadeploy_operator.models.crd FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from llamadeploy.spec.manifest import (
    API_VERSION,
    GROUP,
    DeploymentManifestSpec,
    WorkflowServiceManifestSpec,
)
from llamadeploy_operator.models.status import DeploymentStatus, WorkflowServiceStatus
from llamadeploy_operator.models.structural import Schema, structural

CATEGORY = "llamadeploy"

DEFAULT_REPLICAS = 1
"""Of a WorkflowService: without a value GET /scale fails, and an autoscaler never starts. An inline
service has no default, so that leaving it out hands the number to whoever scales."""


def _ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> dict[str, Any]:
    found = {"name": name, "type": kind, "jsonPath": path}
    return {**found, "priority": 1} if wide else found


_AGE = _column("Age", ".metadata.creationTimestamp", "date")
_WHY = (
    _column("Reason", _ready("reason")),
    _column("Message", _ready("message"), wide=True),
)


def deployment_crd() -> Schema:
    """``kubectl get ldep``. Its plural is not ``deployments``, so that kubectl's word and wildcard
    roles of apps/v1 stay apart from it."""
    columns = [
        _column("Ready", _ready("status")),
        _WHY[0],
        _column("Queue", ".spec.messageQueue.type"),
        _column("Default", ".spec.defaultService", wide=True),
        _column("Version", ".status.runtime.version", wide=True),
        _column("Endpoint", ".status.endpoints.controlPlane", wide=True),
        _WHY[1],
        _AGE,
    ]
    schema = _root(
        "A LlamaDeploy deployment: a control plane, an orchestrator, a message queue and services.",
        _spec(structural(DeploymentManifestSpec), "What the Deployment should be."),
        structural(DeploymentStatus),
    )
    names = ("Deployment", "llamadeployments", "llamadeployment", "ldep")
    return _crd(names, schema, columns, {"status": {}})


def workflow_service_crd() -> Schema:
    """``kubectl get wfs``."""
    columns = [
        _column("Deployment", ".spec.deploymentRef.name"),
        _column("Service", ".status.serviceName"),
        _column("Desired", ".spec.replicas", "integer"),
        _column("Current", ".status.replicas", "integer"),
        _column("Available", ".status.readyReplicas", "integer"),
        _column("Ready", _ready("status")),
        *_WHY,
        _column("Commit", ".status.source.commit", wide=True),
        _AGE,
    ]
    spec = _spec(structural(WorkflowServiceManifestSpec), "What the WorkflowService should be.")
    spec["properties"]["replicas"] |= {
        "default": DEFAULT_REPLICAS,
        "description": "Number of workers; kubectl scale and autoscalers change it.",
    }
    schema = _root(
        "A service of a Deployment: one workflow under a name, run by its replicas.",
        spec,
        structural(WorkflowServiceStatus),
    )
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    names = ("WorkflowService", "workflowservices", "workflowservice", "wfs")
    return _crd(names, schema, columns, {"status": {}, "scale": scale})


CRDS = {
    "llamadeployments.yaml": deployment_crd,
    "workflowservices.yaml": workflow_service_crd,
}
"""File name -> what it holds."""


def _spec(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _root(description: str, spec: Schema, status: Schema) -> Schema:
    version = "Version of this representation of the object; servers convert between versions."
    return {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": version, "maxLength": 253},
            "kind": {"type": "string", "description": "The kind of the object.", "maxLength": 63},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {**status, "description": "What was observed; written by the operator."},
        },
    }


def _crd(
    names: tuple[str, str, str, str],
    schema: Schema,
    columns: list[dict[str, Any]],
    subresources: dict[str, Any],
) -> Schema:
    kind, plural, singular, short = names
    version = {
        "name": API_VERSION.split("/")[1],
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": subresources,
        "additionalPrinterColumns": columns,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": [short],
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(crd: Schema) -> str:
    """The file's text."""
    head = "# Written by `make crds` from the models in operator/ and runtime/; do not edit.\n"
    return head + yaml.dump(crd, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def main(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(exist_ok=True)
    for name, build in CRDS.items():
        (folder / name).write_text(render(build()))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "crds"))
