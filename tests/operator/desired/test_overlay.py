"""podTemplate overlays: merged as core/v1 merges, refused where they must not reach."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from llamadeploy_operator.desired.overlay import merge_pod_template
from llamadeploy_operator.errors import InvalidPodTemplate
from llamadeploy_operator.reasons import Reason

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "securityContext": {"runAsUser": 1},
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        "containers": [
            {
                "name": "worker",
                "command": ["llamadeploy", "worker"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
                "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m"}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
    },
}


def merged(overlay: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy((BASE, overlay))
    found = merge_pod_template(BASE, overlay, "podTemplate")
    assert (BASE, overlay) == before
    return found


def container(overlay: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = merged({"spec": {"containers": [{"name": "worker", **overlay}]}})
    assert len(found["spec"]["containers"]) == 1
    return dict(found["spec"]["containers"][0])


def test_maps_are_merged() -> None:
    found = merged({"metadata": {"labels": {"b": "2"}, "annotations": {"c": "3"}}})
    assert found["metadata"] == {"labels": {"a": "1", "b": "2"}, "annotations": {"c": "3"}}
    assert merged({"spec": {"nodeSelector": {"x": "y"}}})["spec"]["nodeSelector"] == {"x": "y"}


def test_lists_are_merged_by_their_keys() -> None:
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    found = container({"env": [{"name": "C", "value": "3"}, {"name": "A", "valueFrom": secret}]})
    assert found["env"] == [
        {"name": "A", "valueFrom": secret},
        {"name": "B", "value": "2"},
        {"name": "C", "value": "3"},
    ]
    found = container({"ports": [{"containerPort": 9090, "name": "other"}, {"containerPort": 1}]})
    assert [(p["containerPort"], p.get("name")) for p in found["ports"]] == [
        (9090, "other"), (1, None)
    ]  # fmt: skip
    found = container({"volumeMounts": [{"name": "big", "mountPath": "/tmp"}]})
    assert found["volumeMounts"] == [{"name": "big", "mountPath": "/tmp"}]
    found = merged({"spec": {"containers": [{"name": "proxy", "image": "p"}]}})
    assert [each["name"] for each in found["spec"]["containers"]] == ["worker", "proxy"]


def test_a_volumes_kind_is_replaced() -> None:
    claim = {"name": "tmp", "persistentVolumeClaim": {"claimName": "x"}}
    assert merged({"spec": {"volumes": [claim]}})["spec"]["volumes"] == [claim]


def test_other_lists_are_replaced_and_null_removes() -> None:
    assert container({"command": ["sleep"]})["command"] == ["sleep"]
    found = container({"resources": {"limits": None, "requests": {"cpu": "2"}}})
    assert found["resources"] == {"requests": {"cpu": "2"}}
    tolerations = [{"operator": "Exists"}]
    assert merged({"spec": {"tolerations": tolerations}})["spec"]["tolerations"] == tolerations


@pytest.mark.parametrize(
    ("overlay", "field", "words"),
    [
        ({"kind": "Pod"}, "podTemplate.kind", "metadata and spec"),
        ({"metadata": {"name": "x"}}, "podTemplate.metadata.name", "labels and annotations"),
        ({"metadata": {"labels": {"llamadeploy.io/component": "x"}}},
         "podTemplate.metadata.labels", "operator's"),
        ({"metadata": {"labels": {"app.kubernetes.io/part-of": "x"}}},
         "podTemplate.metadata.labels", "operator's"),
        ({"metadata": {"annotations": {"llamadeploy.io/consumed": "x"}}},
         "podTemplate.metadata.annotations", "operator's"),
        ({"spec": {"hostNetwork": True}}, "podTemplate.spec.hostNetwork", "node"),
        ({"spec": {"hostPID": True}}, "podTemplate.spec.hostPID", "node"),
        ({"spec": {"hostIPC": True}}, "podTemplate.spec.hostIPC", "node"),
        ({"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}},
         "podTemplate.spec.volumes[0].hostPath", "persistentVolumeClaim"),
        ({"spec": {"containers": [{"name": "x", "securityContext": {"privileged": True}}]}},
         "podTemplate.spec.containers[0].securityContext.privileged", "refused"),
        ({"spec": {"initContainers": [{"name": "x", "securityContext": {"privileged": True}}]}},
         "podTemplate.spec.initContainers[0].securityContext.privileged", "refused"),
        ({"spec": {"containers": [{"name": "worker",
                                   "env": [{"name": "LLAMADEPLOY_API_TOKEN"}]}]}},
         "podTemplate.spec.containers[0].env", "set by the operator"),
        ({"spec": {"containers": [{"name": "x",
                                   "ports": [{"containerPort": 1, "hostPort": 1}]}]}},
         "podTemplate.spec.containers[0].ports[0].hostPort", "node"),
        ({"spec": {"ephemeralContainers": []}}, "podTemplate.spec.ephemeralContainers", "debug"),
        ({"spec": {"containers": [{"image": "x"}]}},
         "podTemplate.spec.containers[0]", "write its name"),
        ({"spec": {"containers": {"name": "x"}}}, "podTemplate.spec.containers", "list"),
        ({"spec": {"containers": ["x"]}}, "podTemplate.spec.containers[0]", "mapping"),
        ({"spec": {"containers": [{"name": "x"}, {"name": "x"}]}},
         "podTemplate.spec.containers[1]", "twice"),
        ({"spec": []}, "podTemplate.spec", "mapping"),
        ({"spec": {"securityContext": "none"}}, "podTemplate.spec.securityContext", "mapping"),
        ({"spec": {"$patch": "replace"}}, "podTemplate.spec.$patch", "write the fields"),
        ({"spec": {"securityContext": {"windowsOptions": {"hostProcess": True}}}},
         "podTemplate.spec.securityContext.windowsOptions", "Linux"),
    ],
)  # fmt: skip
def test_refused(overlay: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidPodTemplate) as caught:
        merged(overlay)
    assert caught.value.field == field
    assert words in str(caught.value)
    problem = caught.value.problem
    assert (problem.reason, problem.stalled) == (Reason.INVALID_POD_TEMPLATE, True)


@pytest.mark.parametrize("component", ["controlPlane", "orchestrator", "ui", "services"])
def test_every_component_checks_its_overlay(case: Callable[..., Any], component: str) -> None:
    overlay = {"podTemplate": {"spec": {"hostNetwork": True}}}
    source = {"source": {"configMap": {"name": "code"}}}
    sections: dict[str, Any] = {
        "controlPlane": overlay,
        "orchestrator": overlay,
        "ui": {"name": "web", **source, **overlay},
        "services": [{"name": "echo", "path": "a:b", **source, **overlay}],
    }
    shared = {
        "controlPlane": {"stateStore": {"uri": "redis://h"}},
        "messageQueue": {"type": "redis", "redis": {"url": "redis://h"}},
    }
    with pytest.raises(InvalidPodTemplate, match=r"podTemplate\.spec\.hostNetwork"):
        _ = case({**shared, component: sections[component]}).children
