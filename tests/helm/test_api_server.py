"""What the charts render, accepted by a real API server."""

from __future__ import annotations

import copy
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from e2e.cluster.api import APPLY, ApiRefusedError  # noqa: E402
from helm import manifests  # noqa: E402

CHART = ROOT / "helm" / "llamadeploy-operator"
CLUSTER_WIDE = ("Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")
PLURALS = {"NetworkPolicy": "networkpolicies"}
Apply = Callable[[list[dict[str, Any]]], list[str]]


def address(item: dict[str, Any], namespace: str) -> str:
    """The path of an object."""
    version, kind, metadata = item["apiVersion"], item["kind"], item["metadata"]
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    if version.startswith("llamadeploy.io"):
        plural = "llamadeployments"
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if kind not in CLUSTER_WIDE:
        root += f"/namespaces/{metadata.get('namespace', namespace)}"
    return f"{root}/{plural}/{metadata['name']}"


@pytest.fixture
def restricted(api: Any) -> Iterator[str]:
    """A namespace that takes restricted pods only."""
    name = f"t{uuid.uuid4().hex[:12]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield name
    api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def apply(api: Any, restricted: str) -> Iterator[Apply]:
    """Apply objects as ``kubectl apply --server-side`` does, strictly; gives their versions."""
    applied: set[str] = set()

    def all_of(objects: list[dict[str, Any]]) -> list[str]:
        versions = []
        for item in objects:
            path = address(item, restricted)
            if item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
                applied.add(path)
            params = {"fieldManager": "kubectl", "fieldValidation": "Strict"}
            if item["kind"] == "CustomResourceDefinition":
                params["force"] = "true"  # the run has applied its own under another name
            found = api.request("PATCH", path, item, params=params, content_type=APPLY)
            assert found["metadata"].get("name") == item["metadata"]["name"]
            # A controller's status must not count as a change.
            versions.append(
                str(found["metadata"].get("generation", found["metadata"]["resourceVersion"]))
            )
        return versions

    yield all_of
    for path in applied:
        api.request("DELETE", path)


@pytest.mark.parametrize("name", ["default", "full", "namespaced", "small"])
def test_accepted_strictly_and_steady(
    render: Any, values: Any, restricted: str, apply: Apply, name: str
) -> None:
    given = ("--namespace", restricted, "--values", values(name, restricted))
    objects = render("llamadeploy-operator", *given)
    first = apply(objects)
    assert apply(objects) == first
    assert apply(render("llamadeploy-operator", *given)) == first


def test_pods_are_restricted(
    api: Any, render: Any, values: Any, restricted: str, apply: Apply
) -> None:
    given = ("--namespace", restricted, "--values", values("full", restricted))
    objects = render("llamadeploy-operator", *given)
    apply([item for item in objects if item["kind"] == "ServiceAccount"])
    (template,) = [item["spec"]["template"] for item in objects if item["kind"] == "Deployment"]
    path = f"/api/v1/namespaces/{restricted}/pods"
    params = {"dryRun": "All", "fieldValidation": "Strict"}
    template["metadata"]["name"] = "operator"
    api.request("POST", path, template, params=params)
    weak = copy.deepcopy(template)
    weak["spec"]["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")
    with pytest.raises(ApiRefusedError, match="allowPrivilegeEscalation"):
        api.request("POST", path, weak, params=params)
    (container,) = template["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_manifests_for_kubectl(helm: Path, restricted: str, apply: Apply) -> None:
    texts = manifests.manifests(helm)
    for name in ("crds.yaml", "install.yaml"):
        text = texts[name].replace(manifests.NAMESPACE, restricted)
        objects = list(yaml.safe_load_all(text))
        first = apply(objects)
        assert apply(objects) == first


def test_install_notes_upgrade_uninstall(
    api: Any, api_server: Any, run_helm: Any, restricted: str, apply: Apply
) -> None:
    release = ("release", "--namespace", restricted, "--kubeconfig", api_server.kubeconfig)
    done = run_helm("install", release[0], CHART, *release[1:])
    deployment = f"/apis/apps/v1/namespaces/{restricted}/deployments/release-llamadeploy-operator"
    before = api.request("GET", deployment)["metadata"]
    assert f"-n {restricted} rollout status deployment/{before['name']} " in done.stdout
    # What the notes tell people to apply is taken, field by field.
    (text,) = re.findall(r"(?ms)<<'MANIFEST'\n(.*?)^MANIFEST$", done.stdout)
    assert {item["kind"] for item in yaml.safe_load_all(text)} == {"ConfigMap", "Deployment"}
    apply(list(yaml.safe_load_all(text)))
    prose = done.stdout.split("NOTES:\n")[1].replace(text, "")
    for line in filter(None, prose.splitlines()):
        assert line.startswith(("#", "kubectl ", "MANIFEST")), line
    run_helm("upgrade", release[0], CHART, *release[1:])
    assert api.request("GET", deployment)["metadata"]["generation"] == before["generation"]
    run_helm("uninstall", *release)
    left = api.request("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
    assert not [item for item in left if item["metadata"]["name"].startswith(restricted)]
    kept = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llamadeployments.llamadeploy.io"
    assert api.request("GET", kept)
