"""Install, upgrade, roll back, uninstall: by kubectl and by Helm, on a real API server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from e2e.cluster.api import Api  # noqa: E402
from e2e.operator_process import Namespace, deployment, eventually  # noqa: E402
from helm import manifests  # noqa: E402

CHARTS = {name: ROOT / "helm" / name for name in ("llamadeploy-crds", "llamadeploy-operator")}
SYSTEM = manifests.NAMESPACE
INSTANCE = "app.kubernetes.io/instance"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cluster_api(empty_cluster: Any) -> Iterator[Api]:
    """Its administrator."""
    api = Api(empty_cluster.kubeconfig)
    yield api
    api.close()


@pytest.fixture
def run_kubectl(kubectl: Path, empty_cluster: Any, tmp_path: Path) -> Kubectl:
    """``run_kubectl("apply", ...)`` on the cluster."""

    def run(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        environ = {
            "HOME": str(tmp_path), "KUBECONFIG": str(empty_cluster.kubeconfig),
            "PATH": "/usr/bin:/bin",
        }  # fmt: skip
        done = subprocess.run([kubectl, *arguments], env=environ, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def versions(run_kubectl: Kubectl, *files: Path) -> dict[str, str]:
    """Resource versions of the objects of manifests."""
    given = [part for file in files for part in ("-f", file)]
    found = json.loads(run_kubectl("get", *given, "-o", "json").stdout)["items"]
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in found
    }


def settled(api: Api) -> bool:
    """Controllers have said what they see of the operator's Deployment (no pod can run here)."""
    found = api.request("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments")["items"]
    budgets = api.request("GET", f"/apis/policy/v1/namespaces/{SYSTEM}/poddisruptionbudgets")
    crds = api.request("GET", DEFINITIONS)["items"]
    return all(
        (
            bool(found) and all(item["status"].get("unavailableReplicas") == 2 for item in found),
            all(item.get("status", {}).get("expectedPods") == 2 for item in budgets["items"]),
            all(item["status"].get("acceptedNames", {}).get("kind") for item in crds),
        )
    )


def test_kubectl_apply_twice_changes_nothing_and_a_helm_release_is_not_taken_over(
    helm: Path, run_kubectl: Kubectl, run_helm: Any, empty_cluster: Any, cluster_api: Api,
    tmp_path: Path,
) -> None:  # fmt: skip
    files = []
    for name, text in manifests.manifests(helm).items():
        assert "managed-by" not in text and "helm.sh/chart" not in text
        files.append(tmp_path / name)
        files[-1].write_text(text)
    assert [path.name for path in files] == ["crds.yaml", "install.yaml"]
    for path in files:
        run_kubectl("apply", "--server-side", "-f", path)
    eventually(lambda: settled(cluster_api), "the controllers have seen all", 60)
    before = versions(run_kubectl, *files)
    assert len(before) > 8
    for path in files:
        run_kubectl("apply", "--server-side", "-f", path)
    assert versions(run_kubectl, *files) == before
    # Helm does not take over silently what kubectl applied, nor the other way round.
    release = ("llamadeploy-operator", CHARTS["llamadeploy-operator"], "--namespace", SYSTEM)
    login = ("--kubeconfig", empty_cluster.kubeconfig)
    refused = run_helm("install", *release, *login, check=False)
    assert "cannot be imported into the current release" in refused.stderr
    run_helm("install", *release, *login, "--take-ownership", "--force-conflicts")
    changed = tmp_path / "changed.yaml"
    changed.write_text(files[1].read_text().replace("replicas: 2", "replicas: 3"))
    conflict = run_kubectl("apply", "--server-side", "-f", changed, check=False)
    assert 'conflict with "helm": .spec.replicas' in conflict.stderr
    run_kubectl("apply", "--server-side", "--force-conflicts", "-f", changed)
    run_helm("uninstall", release[0], "--namespace", SYSTEM, *login)
    run_kubectl("delete", "--wait", "-f", files[0])
    run_kubectl("delete", "--wait", "--ignore-not-found", "-f", files[1])
    assert not cluster_api.request("GET", DEFINITIONS)["items"]


def test_kustomize_overlay(run_kubectl: Kubectl, helm: Path, tmp_path: Path) -> None:
    for folder in ("crds", "kustomize"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    base = tmp_path / "kustomize" / "base" / "operator.yaml"
    base.write_text(manifests.manifests(helm)["install.yaml"])
    text = run_kubectl("kustomize", tmp_path / "kustomize" / "overlays" / "example").stdout
    objects = list(yaml.safe_load_all(text))
    assert sum(item["kind"] == "CustomResourceDefinition" for item in objects) == 2
    (pod,) = [item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Deployment"]
    (container,) = pod["containers"]
    environ = {item["name"]: item.get("value") for item in container["env"]}
    image = "registry.local/llamadeploy:1.2.3"
    assert (container["image"], environ["LLAMADEPLOY_OPERATOR_RUNTIME_IMAGE"]) == (image, image)
    assert environ["LLAMADEPLOY_OPERATOR_INDEX_URL"] == "https://pypi.local/simple"
    assert environ["LLAMADEPLOY_OPERATOR_LEASE_NAME"], "what the base says stays"
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    (namespace,) = [item for item in objects if item["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.fixture
def newer(tmp_path: Path) -> dict[str, Path]:
    """The charts of a later release: another version, and a definition with one more column."""
    found = {}
    for name, chart in CHARTS.items():
        found[name] = shutil.copytree(chart, tmp_path / "newer" / name)
        path = found[name] / "Chart.yaml"
        path.write_text(re.sub(r"(?m)^(version|appVersion): .*$", r'\1: "9.9.9"', path.read_text()))
    path = found["llamadeploy-crds"] / "templates" / "llamadeployments.yaml"
    text = path.read_text()
    assert "additionalPrinterColumns:\n" in text
    column = "- {name: Newer, type: string, jsonPath: .metadata.name}"
    path.write_text(
        re.sub(r"( *)(additionalPrinterColumns:\n)", rf"\1\2\1{column}\n", text, count=1)
    )
    return found


def left(api: Api) -> list[str]:
    """What is there of a release of the operator."""
    places = [
        f"{RBAC}/clusterroles", f"{RBAC}/clusterrolebindings", f"{RBAC}/roles",
        f"{RBAC}/rolebindings", "/apis/apps/v1/deployments", "/apis/apps/v1/replicasets",
        "/api/v1/pods", "/api/v1/services", "/api/v1/serviceaccounts", "/api/v1/configmaps",
        "/apis/policy/v1/poddisruptionbudgets", "/apis/networking.k8s.io/v1/networkpolicies",
    ]  # fmt: skip
    query = {"labelSelector": f"{INSTANCE}=llamadeploy-operator"}
    return [
        f"{place.rsplit('/', 1)[1]}/{item['metadata']['name']}"
        for place in places
        for item in api.request("GET", place, params=query)["items"]
    ]


def columns(api: Api) -> set[str]:
    """Of `kubectl get ldep`."""
    crd = api.request("GET", f"{DEFINITIONS}/llamadeployments.llamadeploy.io")
    return {item["name"] for item in crd["spec"]["versions"][0]["additionalPrinterColumns"]}


def image(api: Api) -> str:
    path = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/llamadeploy-operator"
    found = api.request("GET", path)
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def pasted(notes: str, kubectl: Path, kubeconfig: Path) -> None:
    """Run what a release's notes say in a shell, but for what needs pods: wait, and send a task."""
    script = notes.split("NOTES:\n")[1]
    lines = script.splitlines(keepends=True)
    needs_pods = ("rollout status", "wait --for", "exec ")
    kept = "".join(line for line in lines if not any(word in line for word in needs_pods))
    assert len(lines) - len(kept.splitlines()) == 3
    environ = {
        "PATH": f"{kubectl.parent}:/usr/bin:/bin",
        "KUBECONFIG": str(kubeconfig),
        "HOME": str(kubeconfig.parent),
    }
    for text, options in ((script, "-n"), (kept, "-eu")):
        done = subprocess.run(
            ["bash", options], input=text, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    for said in (
        "llamadeploy.io/hello serverside-applied", 'llamadeploy.io "hello" deleted',
    ):  # fmt: skip
        assert said in done.stdout, done.stdout


def test_upgrade_rollback_and_uninstall_in_any_order(
    run_helm: Any,
    kubectl: Path,
    empty_cluster: Any,
    cluster_api: Api,
    newer: dict[str, Path],
) -> None:
    api = cluster_api
    login = ("--namespace", SYSTEM, "--kubeconfig", empty_cluster.kubeconfig)

    def install(*, charts: dict[str, Path]) -> str:
        said = ""
        for name, chart in charts.items():
            said = run_helm(
                "upgrade", "--install", name, chart, *login, "--create-namespace"
            ).stdout
        return said

    pasted(install(charts=CHARTS), kubectl, empty_cluster.kubeconfig)
    first = image(api)
    space = Namespace(api, "default")
    space.create("ldep", deployment("kept"))
    # The definitions first; then back in the other order.
    install(charts=newer)
    assert "Newer" in columns(api)
    assert image(api).endswith(":9.9.9")
    for name in ("llamadeploy-operator", "llamadeploy-crds"):
        run_helm("rollback", name, *login)
    assert image(api) == first
    assert "Newer" not in columns(api)
    for order in (tuple(CHARTS), tuple(reversed(CHARTS))):
        install(charts=CHARTS)
        for name in order:
            run_helm("uninstall", name, *login, "--wait")
        eventually(lambda: not left(api), f"nothing is left after {order}", 60)
        assert len(api.request("GET", DEFINITIONS)["items"]) == 2
        assert space.names("ldep") == {"kept"}
    # Nothing holds back what a user deletes, though no operator is there.
    api.request("DELETE", f"/api/v1/namespaces/{SYSTEM}")
    space.delete("ldep", "kept")
    assert space.names("ldep") == set()

    def gone() -> bool:
        items = api.request("GET", "/api/v1/namespaces")["items"]
        return SYSTEM not in {item["metadata"]["name"] for item in items}

    eventually(gone, "the operator's namespace is gone", 60)
