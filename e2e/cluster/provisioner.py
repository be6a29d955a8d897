"""Volumes for claims of a cluster that has nobody who makes them.

A ``local`` volume, not a ``hostPath`` one: the kubelet gives it to the pod's ``fsGroup``, as it
does with a cloud's disks.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import httpx

from e2e.cluster.api import Api, ApiRefusedError

CLASS = "local"
PERIOD_SECONDS = 0.3
_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
_VOLUMES = "/api/v1/persistentvolumes"


class Provisioner:
    """A thread that answers claims of the default storage class.

    Args:
        folder: of all volumes, on the node.
        node: where they are.
    """

    def __init__(self, kubeconfig: Path, folder: Path, node: str) -> None:
        self._api = Api(kubeconfig)
        self._folder = folder
        self._node = node
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="provisioner", daemon=True)

    def start(self) -> None:
        """Make the class, which is the default, and begin."""
        self._folder.mkdir(exist_ok=True)
        annotation = {"storageclass.kubernetes.io/is-default-class": "true"}
        body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": annotation},
            "provisioner": "llamadeploy.io/local",
            "volumeBindingMode": "Immediate",
        }
        self._api.apply(f"{_CLASSES}/{CLASS}", body)
        self._thread.start()

    def stop(self) -> None:
        """End; the volumes stay. Idempotent."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._api.close()

    def _run(self) -> None:
        while not self._end.wait(PERIOD_SECONDS):
            try:
                self._look()
            except (ApiRefusedError, httpx.HTTPError):
                pass  # the next look does it; one that is gone for good shows as a pending claim

    def _look(self) -> None:
        volumes = self._api.request("GET", _VOLUMES)["items"]
        claimed = {
            item["spec"]["claimRef"]["uid"] for item in volumes if "claimRef" in item["spec"]
        }
        for claim in self._api.request("GET", "/api/v1/persistentvolumeclaims")["items"]:
            ours = claim["spec"].get("storageClassName") == CLASS
            if ours and claim["metadata"]["uid"] not in claimed:
                self._make(claim)
        for volume in volumes:
            if volume.get("status", {}).get("phase") == "Released":
                self._remove(volume["metadata"]["name"])

    def _make(self, claim: dict[str, Any]) -> None:
        metadata = claim["metadata"]
        name = f"claim-{metadata['uid']}"
        path = self._folder / name
        path.mkdir(exist_ok=True)
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self._node]}
        spec = {
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain",  # what is released is removed by us
            "local": {"path": str(path)},
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]},
            },
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": metadata["name"],
                "namespace": metadata["namespace"], "uid": metadata["uid"],
            },
        }  # fmt: skip
        self._api.request("POST", _VOLUMES, {"metadata": {"name": name}, "spec": spec})

    def _remove(self, name: str) -> None:
        self._api.request("DELETE", f"{_VOLUMES}/{name}")
        shutil.rmtree(self._folder / name, ignore_errors=True)
