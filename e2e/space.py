"""A namespace of an end-to-end test: objects by short names, and commands in pods."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from e2e.cluster.api import Api, ApiRefusedError
from e2e.cluster.exec import Done, run_in
from e2e.operator_process import Json, Namespace, eventually

READY_SECONDS = 180.0
"""From applying a Deployment to readiness: pods that wait for each other, on a busy machine."""

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY = {
    "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


class Space(Namespace):
    """See the module.

    Args:
        image: the product's, of the client's pod.
    """

    def __init__(self, api: Api, name: str, image: str) -> None:
        super().__init__(api, name)
        self.image = image

    # -- ours ------------------------------------------------------------------------------------
    def apply(self, *objects: Json) -> None:
        """Server-side apply, as ``kubectl apply --server-side`` does."""
        for item in objects:
            kind = _short(item["kind"], item["apiVersion"])
            self.api.apply(self.path(kind, item["metadata"]["name"]), item, "kubectl")

    def wait_ready(self, name: str, kind: str = "ldep", seconds: float = READY_SECONDS) -> None:
        """Until its current generation is Ready.

        Raises:
            AssertionError: it is not in time; tells its conditions.
        """

        def ready() -> bool:
            body = self.get(kind, name)
            if body["status"]["observedGeneration"] != body["metadata"]["generation"]:
                return False
            return self.condition(kind, name, "Ready")[0] == "True"

        try:
            eventually(ready, f"{kind} {name} is ready", seconds, 0.2)
        except AssertionError as error:
            found = self.find(kind, name) or {}
            conditions = found.get("status", {}).get("conditions", [])
            lines = [
                f"  {c['type']}={c['status']} {c['reason']}: {c['message']}" for c in conditions
            ]
            raise AssertionError("\n".join([str(error), *lines])) from None

    def wait_condition(
        self, kind: str, name: str, type: str, reason: str, seconds: float = 90.0
    ) -> str:
        """Its message, once the condition is True for that reason."""

        def found() -> str | None:
            status, given, message = self.condition(kind, name, type)
            return message if (status, given) == ("True", reason) else None

        message = eventually(found, f"{kind} {name} is {type} for {reason}", seconds, 0.2)
        return str(message)

    def secret_value(self, name: str, key: str) -> str:
        """A key of a Secret."""
        return base64.b64decode(self.get("secret", name)["data"][key]).decode()

    # -- pods ------------------------------------------------------------------------------------
    def pods(self, **labels: str) -> list[Json]:
        """Those with these labels (``component`` is ``llamadeploy.io/component``) that are not on
        their way out."""
        wanted = {f"llamadeploy.io/{key}": value for key, value in labels.items()}
        return [
            pod
            for pod in self.list("pod")
            if wanted.items() <= pod["metadata"].get("labels", {}).items()
            and "deletionTimestamp" not in pod["metadata"]
        ]

    def run_pod(self, name: str, image: str, command: list[str], **spec: Any) -> None:
        """A pod with one container, and wait until it is ready.

        Args:
            spec: ``env``, ``ports``, ``readinessProbe``, ``volumeMounts`` of the container;
                ``volumes`` and ``labels`` of the pod.
        """
        labels = {"app": name, **spec.pop("labels", {})}
        volumes = [{"name": "tmp", "emptyDir": {}}, *spec.pop("volumes", [])]
        mounts = [{"name": "tmp", "mountPath": "/tmp"}, *spec.pop("volumeMounts", [])]
        container = {
            "name": "main", "image": image, "command": command, "securityContext": RESTRICTED,
            "volumeMounts": mounts, **spec,
        }  # fmt: skip
        env = [{"name": "HOME", "value": "/tmp"}, *container.pop("env", [])]
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "containers": [{**container, "env": env}], "volumes": volumes,
                "securityContext": POD_SECURITY, "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False, "enableServiceLinks": False,
            },
        }  # fmt: skip
        # A new namespace's service account may not be there yet.
        eventually(lambda: self.find("serviceaccount", "default"), "the service account", 60)
        self.create("pod", body)
        self.wait_pod(name)

    def wait_pod(self, name: str, seconds: float = 120.0) -> None:
        """Until a pod is ready."""

        def ready() -> bool:
            status = self.get("pod", name)["status"]
            assert status.get("phase") not in ("Failed", "Succeeded"), f"pod {name}: {status}"
            return any(
                item["type"] == "Ready" and item["status"] == "True"
                for item in status.get("conditions", [])
            )

        eventually(ready, f"pod {name} is ready", seconds, 0.1)

    def expose(self, name: str, port: int) -> None:
        """A Service for a pod of :meth:`run_pod`."""
        ports = [{"port": port, "targetPort": port}]
        self.create(
            "service",
            {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}},
        )

    def run(
        self, pod: str, *command: str, seconds: float = 120.0,
        heard: Callable[[str], None] = lambda text: None,
    ) -> Done:  # fmt: skip
        """Run a command in a pod's first container."""
        return run_in(self.api, self.name, pod, list(command), seconds=seconds, heard=heard)

    def logs(self, pod: str, container: str = "", previous: bool = False) -> str:
        """What a container wrote."""
        params = {"container": container} if container else {}
        if previous:
            params["previous"] = "true"
        return str(self.api.request("GET", self.path("pod", pod, "log"), params=params))


def _short(kind: str, version: str) -> str:
    if kind == "Deployment":
        return "ldep" if version.startswith("llamadeploy.io") else "deployment"
    return {"WorkflowService": "wfs"}.get(kind, kind.lower())


def gone(space: Namespace, kind: str, name: str) -> bool:
    """Whether there is no such object."""
    try:
        space.get(kind, name)
    except ApiRefusedError as error:
        return error.status == 404
    return False


OURS = ("deployment", "statefulset", "service", "secret", "configmap", "serviceaccount", "pdb",
        "networkpolicy", "job", "pvc", "wfs", "pod")  # fmt: skip
"""Kinds that the operator makes, and what comes of them."""

_MANAGED_BY = "app.kubernetes.io/managed-by"


def left(space: Namespace) -> dict[str, set[str]]:
    """What the operator has made and is still there, by kind."""
    found = {
        kind: {
            item["metadata"]["name"]
            for item in space.list(kind)
            if item["metadata"].get("labels", {}).get(_MANAGED_BY) == "llamadeploy-operator"
        }
        for kind in OURS
    }
    return {kind: names for kind, names in found.items() if names}


def restarted(space: Namespace, pod: str, before: Json) -> bool:
    """Whether a pod's only container runs anew.

    Args:
        before: its ``containerStatuses`` entry of then.
    """
    (now,) = space.get("pod", pod)["status"]["containerStatuses"]
    return bool(now["restartCount"] > before["restartCount"] and now["ready"])
