"""What tests of the operator share: its process, its rights, and objects by short names."""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from e2e.cluster.api import Api, ApiRefusedError
from e2e.cluster.process import Process
from llamadeploy_operator.cluster import rbac

ROOT = Path(__file__).parents[1]

SYSTEM = "llamadeploy-system"
GROUP = "/apis/llamadeploy.io/v1alpha1"
PATHS = {
    "ldep": (GROUP, "llamadeployments"),
    "wfs": (GROUP, "workflowservices"),
    "deployment": ("/apis/apps/v1", "deployments"),
    "service": ("/api/v1", "services"),
    "secret": ("/api/v1", "secrets"),
    "configmap": ("/api/v1", "configmaps"),
    "serviceaccount": ("/api/v1", "serviceaccounts"),
    "pdb": ("/apis/policy/v1", "poddisruptionbudgets"),
    "networkpolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "statefulset": ("/apis/apps/v1", "statefulsets"),
    "job": ("/apis/batch/v1", "jobs"),
    "pod": ("/api/v1", "pods"),
    "event": ("/api/v1", "events"),
    "pvc": ("/api/v1", "persistentvolumeclaims"),
    "scaledobject": ("/apis/keda.sh/v1alpha1", "scaledobjects"),
    "triggerauthentication": ("/apis/keda.sh/v1alpha1", "triggerauthentications"),
    "podmonitor": ("/apis/monitoring.coreos.com/v1", "podmonitors"),
}

Json = dict[str, Any]


def eventually(
    check: Callable[[], Any], what: str, seconds: float = 30.0, step: float = 0.05
) -> Any:
    """The first true value of ``check``; errors of the API count as not yet."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = check()
            if last:
                return last
        except (ApiRefusedError, KeyError) as error:
            last = error
        time.sleep(step)
    raise AssertionError(f"not within {seconds:.0f} s: {what}; last: {last!r}"[:3000])


class Namespace:
    """Objects of one namespace by short kind and name."""

    def __init__(self, api: Api, name: str) -> None:
        self.api = api
        self.name = name

    def path(self, kind: str, name: str = "", sub: str = "") -> str:
        base, plural = PATHS[kind]
        parts = [base, "namespaces", self.name, plural, name, sub]
        return "/".join(part for part in parts if part)

    def get(self, kind: str, name: str, sub: str = "") -> Json:
        found: Json = self.api.request("GET", self.path(kind, name, sub))
        return found

    def find(self, kind: str, name: str) -> Json | None:
        try:
            return self.get(kind, name)
        except ApiRefusedError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str) -> list[Json]:
        found: list[Json] = self.api.request("GET", self.path(kind))["items"]
        return found

    def names(self, kind: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.list(kind)}

    def create(self, kind: str, body: Json) -> Json:
        made: Json = self.api.request("POST", self.path(kind), body)
        return made

    def patch(self, kind: str, name: str, body: Any, sub: str = "") -> Json:
        made: Json = self.api.request(
            "PATCH", self.path(kind, name, sub), body, content_type="application/merge-patch+json"
        )
        return made

    def delete(self, kind: str, name: str) -> None:
        self.api.request("DELETE", self.path(kind, name))

    def condition(self, kind: str, name: str, type: str) -> tuple[str, str, str]:
        """(status, reason, message); raises KeyError while it is not there."""
        for item in self.get(kind, name)["status"]["conditions"]:
            if item["type"] == type:
                return item["status"], item["reason"], item.get("message", "")
        raise KeyError(type)

    def evaluated(self, kind: str, name: str) -> Json:
        """The object, once its current generation has been evaluated."""

        def check() -> Json | None:
            body = self.get(kind, name)
            generation = body["metadata"]["generation"]
            return body if body["status"]["observedGeneration"] == generation else None

        found: Json = eventually(check, f"{kind} {name} is evaluated")
        return found


def deployment(name: str = "d", **spec: Any) -> Json:
    """A Deployment of ours with one service."""
    return {
        "apiVersion": "llamadeploy.io/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"defaultService": "echo", "services": [service("echo")], **spec},
    }


def service(name: str, **more: Any) -> Json:
    """An inline service."""
    return {
        "name": name,
        "source": {"configMap": {"name": "code"}},
        "path": "workflow:flow",
        **more,
    }


class OperatorProcess(Process):
    """``python -m llamadeploy_operator`` with a kubeconfig.

    Args:
        python: what runs it; another installation's, say.
        env: further variables.
    """

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        *arguments: str,
        python: Sequence[str] = (sys.executable,),
        env: Mapping[str, str] | None = None,
    ) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": os.pathsep.join((str(ROOT / "runtime"), str(ROOT / "operator"))),
            **(env or {}),
        }
        command = [
            *python, "-m", "llamadeploy_operator",
            "--http-host", "127.0.0.1", "--http-port", "0", "--log-format", "text",
            *arguments,
        ]  # fmt: skip
        super().__init__(f"operator-{uuid.uuid4().hex[:6]}", command, folder, environment)

    @property
    def port(self) -> int:
        found = re.findall(r"health on port (\d+)", self.log.read_text())
        if not found:
            raise KeyError("no port yet")
        return int(found[-1])

    def fetch(self, path: str) -> tuple[int, str]:
        """GET of the health port; status 0: nobody answers."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False)
        except (httpx.HTTPError, KeyError):
            return 0, ""
        return answer.status_code, answer.text

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        status, text = self.fetch("/metrics")
        if status != 200:
            raise KeyError(name)
        lines = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in lines)

    def reconciled(self) -> float:
        return self.metric("llamadeploy_operator_reconcile_seconds_count")

    def leads(self) -> bool:
        return self.metric("llamadeploy_operator_leader") == 1

    def wait_working(self) -> None:
        """Until it leads and has listed everything."""
        try:
            eventually(
                lambda: self.running and self.leads() and self.fetch("/readyz")[0] == 200,
                f"{self.name} works",
                60,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None


def versions(space: Namespace) -> dict[str, str]:
    """What tells that something was written, by object."""
    kinds = (
        "ldep",
        "wfs",
        "deployment",
        "statefulset",
        "service",
        "secret",
        "networkpolicy",
        "pdb",
    )
    return {
        f"{kind}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for kind in kinds
        for item in space.list(kind)
    }


def settled(space: Namespace, operator: OperatorProcess) -> None:
    """Nothing is left to be done: all was looked at several times, and nothing was written."""
    before: Any = None

    def still() -> bool:
        nonlocal before
        done = operator.reconciled()
        eventually(lambda: operator.reconciled() >= done + 6, "it looks again")
        last, before = before, versions(space)
        return bool(last == before)

    eventually(still, "versions stand still", 60)


def grant(api: Api, user: str) -> None:
    """What the chart gives: a ClusterRole, and a Role for the Lease."""
    subjects = [
        {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"},
        # What an existing cluster knows the operator by.
        {"kind": "ServiceAccount", "name": user, "namespace": SYSTEM},
    ]
    base = "/apis/rbac.authorization.k8s.io/v1"
    name = f"test-{user}"
    for namespace, rules in ((None, rbac.RULES), (SYSTEM, (rbac.LEASE_RULE,))):
        role = rbac.role(name, namespace, rules)
        binding = {
            "metadata": {"name": name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": role["kind"],
                "name": name,
            },
            "subjects": subjects,
        }
        if namespace is None:
            targets = (("clusterroles", role), ("clusterrolebindings", binding))
            place = base
        else:
            targets = (("roles", role), ("rolebindings", binding))
            place = f"{base}/namespaces/{namespace}"
        for plural, body in targets:
            create_once(api, f"{place}/{plural}", body)


def create_once(api: Api, path: str, body: Json) -> None:
    """Create, or be content that it is there."""
    try:
        api.request("POST", path, body)
    except ApiRefusedError as error:
        if error.status != 409:
            raise
