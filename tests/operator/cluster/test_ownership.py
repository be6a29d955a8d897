"""Reading the book of fields, with entries as the API server writes them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from llamadeploy_operator.cluster.ownership import is_steady, missing, owns, stamped

MANAGER = "llamadeploy-operator"

MANIFEST: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a", "namespace": "n", "labels": {"x/y": "z"}},
    "spec": {
        "replicas": 2,
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "command": ["llamadeploy", "worker"],
                        "ports": [{"containerPort": 8000, "name": "http"}],
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}],
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "nodeSelector": {},
            }
        },
    },
}

FIELDS: dict[str, Any] = {
    "f:metadata": {"f:annotations": {"f:llamadeploy.io/applied": {}}, "f:labels": {"f:x/y": {}}},
    "f:spec": {
        "f:replicas": {},
        "f:template": {
            "f:spec": {
                "f:containers": {
                    'k:{"name":"main"}': {
                        ".": {},
                        "f:command": {},
                        "f:env": {
                            'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}},
                            'k:{"name":"B"}': {".": {}, "f:name": {}, "f:value": {}},
                        },
                        "f:name": {},
                        "f:ports": {
                            'k:{"containerPort":8000,"protocol":"TCP"}': {
                                ".": {},
                                "f:containerPort": {},
                                "f:name": {},
                            }
                        },
                    }
                },
                "f:volumes": {'k:{"name":"tmp"}': {".": {}, "f:emptyDir": {}, "f:name": {}}},
            }
        },
    },
}


def live(fields: dict[str, Any]) -> dict[str, Any]:
    body = stamped(MANIFEST)
    body["metadata"] = body["metadata"] | {
        "managedFields": [
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}},
            {"manager": MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": {}},
            {"manager": MANAGER, "operation": "Apply", "fieldsV1": fields},
        ]
    }
    return body


def without(*path: str) -> dict[str, Any]:
    """The API server keeps no entry that became empty."""
    fields = copy.deepcopy(FIELDS)
    parents = [fields]
    for part in path[:-1]:
        parents.append(parents[-1][part])
    for parent, part in zip(reversed(parents), reversed(path), strict=True):
        del parent[part]
        if parent:
            break
    return fields


SPEC = ("f:spec", "f:template", "f:spec")
MAIN = (*SPEC, "f:containers", 'k:{"name":"main"}')


def test_nothing_is_to_be_done_while_every_field_is_ours() -> None:
    assert is_steady(live(FIELDS), stamped(MANIFEST), MANAGER)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (("f:spec", "f:replicas"), "spec.replicas"),
        (("f:metadata", "f:labels", "f:x/y"), "metadata.labels"),
        ((*MAIN, "f:command"), "spec.template.spec.containers[].command"),
        ((*MAIN, "f:env", 'k:{"name":"B"}'), "spec.template.spec.containers[].env[]"),
        ((*MAIN, "f:env", 'k:{"name":"A"}', "f:value"), ".env[].value"),
        ((*SPEC, "f:volumes", 'k:{"name":"tmp"}'), "spec.template.spec.volumes"),
    ],
)
def test_a_field_that_somebody_took_is_found(path: tuple[str, ...], told: str) -> None:
    found = missing(live(without(*path)), stamped(MANIFEST), MANAGER)
    assert found is not None
    assert found.endswith(told)


def test_another_manifest_is_not_steady() -> None:
    changed = copy.deepcopy(MANIFEST)
    changed["spec"]["replicas"] = 3
    assert not is_steady(live(FIELDS), stamped(changed), MANAGER)
    # Not even one that only lacks something: it has to be let go.
    del changed["spec"]["replicas"]
    assert not is_steady(live(FIELDS), stamped(changed), MANAGER)


def test_what_was_never_applied_by_us_is_not_ours() -> None:
    body = live(FIELDS)
    body["metadata"]["managedFields"] = []
    assert not is_steady(body, stamped(MANIFEST), MANAGER)
    assert not owns(body, MANAGER, "spec", "replicas")
    assert owns(live(FIELDS), MANAGER, "spec", "replicas")
