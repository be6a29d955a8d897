"""The cluster of the end-to-end tests runs pods: with logs, Services and names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from e2e.cluster import cgroups
from e2e.cluster.api import Api, wait_for
from e2e.cluster.build import BuildUnavailableError, cluster_binary, dns_binary
from e2e.cluster.exec import run_in
from e2e.cluster.images import BUSYBOX
from e2e.cluster.node import LocalCluster
from e2e.providers.local import Local

NAMESPACE = "/api/v1/namespaces/default"


def unavailable(why: str) -> NoReturn:
    """Skip; in CI, where it has to be run, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"a node of the tests' own cannot be run: {why}")
    pytest.skip(why)


@pytest.fixture
def local_cluster() -> Iterator[LocalCluster]:
    """One with a node."""
    # In CI, and as root, packages that are missing are installed.
    if lacking := Local.missing():
        unavailable(lacking)
    try:
        programs = cluster_binary(), dns_binary()
    except BuildUnavailableError as error:
        unavailable(str(error))
    with tempfile.TemporaryDirectory(prefix="ldep-", ignore_cleanup_errors=True) as folder:
        cluster = LocalCluster(*programs, Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            spaces = {cluster.network.name, *cluster.pod_networks()}
            cluster.stop()
        left = spaces & {path.name for path in Path("/run/netns").iterdir()}
        assert len(spaces) > 1 and not left, "network namespaces are left"
        assert folder not in Path("/proc/mounts").read_text()
        groups = [place / cluster.network.name for place in cgroups.hierarchies()]
        assert groups and not [path for path in groups if path.exists()]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_pods_run_and_find_each_other(local_cluster: Any) -> None:
    api = Api(local_cluster.kubeconfig)
    account = f"{NAMESPACE}/serviceaccounts/default"
    wait_for(lambda: exists(api, account), 60, "the service account is there")
    api.request("POST", f"{NAMESPACE}/services", {
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })  # fmt: skip
    serve = "echo -n hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    run_pod(api, "web", serve, readinessProbe=probe)
    ask = "until wget -q -O - http://web.default.svc.cluster.local; do sleep 0.2; done"
    run_pod(api, "client", ask)
    wait_for(lambda: phase(api, "client") in ("Succeeded", "Failed"), 120, "the client ends")
    log = api.request("GET", f"{NAMESPACE}/pods/client/log")
    assert phase(api, "client") == "Succeeded" and log.endswith("hello")
    # Another node's kubelet kills pods that it finds in its own groups and does not know.
    tasks = [line.split() for line in local_cluster._ctr("tasks", "ls")[1:]]
    running = [Path(f"/proc/{pid}/cgroup") for _, pid, state in tasks if state == "RUNNING"]
    places = [path.read_text() for path in running]
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    path = f"{NAMESPACE}/persistentvolumeclaims"
    api.request("POST", path, {"metadata": {"name": "disk"}, "spec": claim})
    disk = {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}
    mount = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "disk", "mountPath": "/disk"}]
    run_pod(api, "keeper", "echo kept > /disk/file; sleep 600", volumes=[disk], volumeMounts=mount)
    wait_for(lambda: phase(api, "keeper") == "Running", 120, "a pod with a volume runs")
    wait_for(lambda: said(api, "keeper", "cat /disk/file") == "kept\n", 60, "it may write there")
    assert run_in(api, "default", "keeper", ["sh", "-c", "exit 3"]).code == 3
    assert places and all(f"/{local_cluster.network.name}/" in text for text in places)
    api.close()


def exists(api: Api, path: str) -> bool:
    return api._answers(path)


def said(api: Api, pod: str, command: str) -> str:
    return run_in(api, "default", pod, ["sh", "-c", command]).stdout


def run_pod(
    api: Api, name: str, command: str, volumes: Sequence[Any] = (), **container: Any
) -> None:
    restricted = {
        "runAsNonRoot": True, "runAsUser": 65532, "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        "readOnlyRootFilesystem": True,
    }  # fmt: skip
    item = {
        "name": "main", "image": BUSYBOX, "command": ["sh", "-c", command],
        "securityContext": restricted, "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        **container,
    }  # fmt: skip
    pod = {
        "restartPolicy": "Never",
        "containers": [item],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *volumes],
        "securityContext": {"fsGroup": 65532},
        "terminationGracePeriodSeconds": 1,
    }
    body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": pod}
    api.request("POST", f"{NAMESPACE}/pods", body)


def phase(api: Api, name: str) -> str:
    return str(api.request("GET", f"{NAMESPACE}/pods/{name}")["status"].get("phase"))
