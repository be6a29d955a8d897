"""kube-scheduler, for clusters with nodes of one kind or the other."""

from __future__ import annotations

import json

from e2e.cluster.control_plane import CONTROLLERS_USER, ControlPlane
from e2e.cluster.process import Process


def scheduler(control_plane: ControlPlane) -> Process:
    """The process, not started."""
    kubeconfig = control_plane.kubeconfig_for(CONTROLLERS_USER)
    config = control_plane.folder / "scheduler.json"
    content = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 1000},
        "leaderElection": {"leaderElect": False},
    }
    config.write_text(json.dumps(content))
    command = [*control_plane.enter, str(control_plane.binary), "kube-scheduler"]
    return Process(
        "kube-scheduler",
        [*command, f"--config={config}", "--secure-port=0"],
        control_plane.folder,
    )
